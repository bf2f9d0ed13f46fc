"""Divide one budget among the widths of hidden layers and the ranks of layers."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from rmtcli.arrays import FloatArray
from rmtcli.keep import Untouched
from rmtcli.layouts import Layout
from rmtcli.planning.allocation import Allocation, Division
from rmtcli.planning.bits import BitAllocation
from rmtcli.planning.fit import Fitted, LayerCalibration
from rmtcli.planning.hidden import HiddenLayers, Owner
from rmtcli.planning.widths import WidthAllocation
from rmtcli.spectra import Factors

if TYPE_CHECKING:
    from rmtcli.calibration import MetricDecomposition

#: A budget divided among ranks, or among ranks and bits.
AnyRanks = Allocation | BitAllocation
#: Shares of what hidden layers can save at most that are tried.
SHARES = (0.0, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.88, 0.94)


@dataclass(frozen=True, slots=True, eq=False)
class Design:
    """A network of some size.

    Attributes:
        widths: the width of each hidden layer.
        fitted: the layers at these widths.
        division: the best division of the budget among them.
        loss: predicted loss of the whole network, on the scale of the layers' losses.
    """

    widths: tuple[int, ...]
    fitted: Sequence[Fitted]
    division: Division
    loss: float


@dataclass(frozen=True, slots=True, eq=False)
class _Later:
    """A layer's losses, and its approximations when they are asked for."""

    losses: FloatArray
    make: Callable[[], MetricDecomposition]

    def factors(self, rank: int) -> Factors:
        """The best approximation of a rank."""
        return self.make().factors(rank)


@dataclass(frozen=True, eq=False)
class CutLayers:
    """The layers around hidden layers, as they are at some widths.

    A reader is fitted to the units that stay, so that what it misses and what its approximation
    misses are orthogonal, and their losses add up. A writer's inputs and its outputs' gradients
    stay those of the dense network.

    Attributes:
        hidden: the hidden layers.
        calibrations: the layers' calibrations, by name.
        widths: the width of each hidden layer.
    """

    hidden: HiddenLayers
    calibrations: Mapping[str, LayerCalibration]
    widths: tuple[int, ...]

    def changes(self, name: str) -> bool:
        """Whether a hidden layer beside a layer is narrower."""
        owners = (self.hidden.writes.get(name), self.hidden.reads.get(name))
        return any(x is not None and self.widths[x[0]] < x[1].units for x in owners)

    def weight(self, name: str) -> NDArray[np.floating]:
        """A layer's matrix, fitted to the units that it still reads."""
        reads = self.hidden.reads.get(name)
        if reads is None or self.widths[reads[0]] == reads[1].units:
            matrix: NDArray[np.floating] = self.hidden.layers[name].load()
        else:
            index, block, narrowing = reads
            matrix = narrowing.readers(self.widths[index])[block.readers.index(name)].weight
        writes = self._cut(self.hidden.writes, name)
        if writes is None:
            return matrix
        index, block, narrowing = writes
        return narrowing.rows(block.writers.index(name), self.widths[index], matrix)

    def calibration(self, name: str) -> LayerCalibration:
        """A layer's calibration, without the inputs and outputs that it loses."""
        own = self.calibrations[name]
        writes, reads = (self._cut(x, name) for x in (self.hidden.writes, self.hidden.reads))
        moments = own.moments
        if reads is not None:
            moments = reads[2].inputs(self.widths[reads[0]], moments)
        if writes is not None and moments.gradient is not None:
            index, block, narrowing = writes
            writer, width = block.writers.index(name), self.widths[index]
            gradient = narrowing.outputs(writer, width, moments.gradient)
            moments = replace(moments, gradient=gradient)
        return replace(own, moments=moments)

    def losses(self, name: str) -> FloatArray:
        """What dropping each direction of a layer adds to the loss."""
        from rmtcli.calibration import metric_losses

        seen = self.calibration(name)
        options = {"bias": seen.bias, "gradients": seen.gradients}
        return metric_losses(self.weight(name), seen.moments, **options)

    def decomposed(self, name: str) -> MetricDecomposition:
        """The best low-rank maps of a layer."""
        return self.calibration(name).decompose(self.weight(name))

    def _cut(self, owners: Mapping[str, Owner], name: str) -> Owner | None:
        """The hidden layer beside a layer, if it is narrower."""
        owner = owners.get(name)
        narrower = owner is not None and self.widths[owner[0]] < owner[1].units
        return owner if narrower else None


@dataclass(frozen=True, eq=False)
class MixedAllocation:
    """The hidden layers and the layers among which one budget is divided.

    Losses of narrower hidden layers and of lower ranks are on one scale and add up. Hidden layers
    are made narrower along one path, on which :class:`WidthAllocation` gives the best widths for
    each size; at some points of it, the ranks of least loss for the rest of the budget are
    computed, and the point of the smallest sum is taken.

    Attributes:
        hidden: the hidden layers.
        calibrations: the layers' calibrations, by name.
        fitted: the layers at their dense widths.
        path: the widths of hidden layers alone, and their costs.
        allocate: gives the allocation of ranks among some layers, whose total is wrong if its unit
            also counts other tensors.
        timed: whether the unit is time, which layers alone take.
    """

    hidden: HiddenLayers
    calibrations: Mapping[str, LayerCalibration]
    fitted: Sequence[Fitted]
    path: WidthAllocation
    allocate: Callable[[Sequence[Fitted]], AnyRanks]
    timed: bool = False

    @cached_property
    def _known(self) -> dict[tuple[str, tuple[int, int]], FloatArray]:
        """Losses that were computed, by layer and shape."""
        return {}

    @cached_property
    def _allocations(self) -> dict[tuple[int, ...], AnyRanks]:
        return {}

    @cached_property
    def _dense(self) -> int:
        """Cost of the dense model."""
        return self.allocate(self.fitted).total

    @cached_property
    def _points(self) -> list[tuple[int, ...]]:
        """Widths on the path, widest first."""
        most = self.path.total - self.path.least
        sizes = (self.path.total - round(share * most) for share in SHARES)
        return list(dict.fromkeys(tuple(self.path.widths(size)) for size in sizes))

    @property
    def total(self) -> int:
        """Cost of the dense model."""
        return self._dense

    @property
    def least(self) -> int:
        """Cost of the smallest model that is tried."""
        return min(self._at(self._points[i]).least for i in (0, -1))

    @property
    def at_edge(self) -> int:
        """A size to try first when the size is searched for."""
        return max(self.least, self._at(self._points[0]).at_edge)

    def best(self, size: int) -> Design:
        """The network of least predicted loss that costs at most ``size``.

        Raises:
            ValueError: no network is as small.
        """
        made: dict[int, Design | None] = {}

        def loss(i: int) -> float:
            if i not in made:
                made[i] = self._design(self._points[i], size)
            design = made[i]
            return np.inf if design is None else design.loss

        last = len(self._points) - 1
        best = min((*range(0, last, 3), last), key=loss)
        best = min((i for i in range(best - 2, best + 3) if 0 <= i <= last), key=loss)
        chosen = made[best]
        if chosen is None:
            raise ValueError(f"no widths and ranks cost at most {size:,}")
        return chosen

    def _design(self, widths: tuple[int, ...], size: int) -> Design | None:
        """The best ranks at these widths; None if the smallest ranks cost more."""
        allocation = self._at(widths)
        if allocation.least > size:
            return None
        division = allocation.divide(size)
        pairs = zip(self.path.losses, widths, strict=True)
        narrow = sum(float(losses[width]) for losses, width in pairs)
        return Design(widths, self._layers(widths), division, narrow + division.loss)

    def planned(
        self, widths: Sequence[int], ranks: Mapping[str, int], layouts: Mapping[str, Layout]
    ) -> Design:
        """The network of a plan, whose loss is not computed.

        Args:
            widths: the width of each hidden layer.
            ranks: the rank of each layer that has one, by name.
            layouts: their layouts.
        """
        chosen = {x.layer.name: ranks.get(x.layer.name, Untouched.PLAN) for x in self.fitted}
        division = Division(chosen, layouts, math.nan)
        return Design(tuple(widths), self._layers(tuple(widths)), division, math.nan)

    def _at(self, widths: tuple[int, ...]) -> AnyRanks:
        """The allocation of ranks at these widths."""
        if widths not in self._allocations:
            made = self.allocate(self._layers(widths))
            if not self.timed:
                saved = self.path.total - self.path.cost(widths)
                made = replace(made, total=self._dense - saved)
            self._allocations[widths] = made
        return self._allocations[widths]

    def _layers(self, widths: tuple[int, ...]) -> list[Fitted]:
        """The layers at these widths."""
        return [self._cut(item, widths) for item in self.fitted]

    def _cut(self, item: Fitted, widths: tuple[int, ...]) -> Fitted:
        """A layer at these widths, with its losses."""
        name, cut = item.layer.name, CutLayers(self.hidden, self.calibrations, widths)
        if name not in self.calibrations or not cut.changes(name):
            return item
        shape = self.hidden.shape(item.layer, widths)
        if (name, shape) not in self._known:
            self._known[name, shape] = cut.losses(name)
        later = _Later(self._known[name, shape], lambda: cut.decomposed(name))
        return replace(item, layer=replace(item.layer, shape=shape), approximation=later)
