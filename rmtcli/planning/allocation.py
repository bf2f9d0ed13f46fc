"""The layers among which a budget is divided, with the cost of each of their ranks."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from rmtcli.arrays import FloatArray
from rmtcli.calibration import ByLayer
from rmtcli.checkpoint import Checkpoint
from rmtcli.checkpoint.dtypes import TYPES
from rmtcli.errors import UsageError
from rmtcli.keep import Untouched
from rmtcli.layers import Layer
from rmtcli.layouts import Factored, Layout, undivided
from rmtcli.planning.allocate import RankOptions, allocate
from rmtcli.planning.fit import Fitted, LayerCalibration
from rmtcli.planning.goal import Goal
from rmtcli.planning.times import Times


@dataclass(frozen=True, slots=True, eq=False)
class Allocation:
    """The layers among which a budget is divided.

    Attributes:
        groups: layers that get one rank; a group has several layers if they share a right factor.
        options: for each group, the ranks that it can get, their losses and their costs.
        total: cost of the dense model, other layers included.
    """

    groups: Sequence[Sequence[Fitted]]
    options: Sequence[RankOptions]
    total: int

    @property
    def least(self) -> int:
        """Cost of the model with each of these layers at its cheapest rank."""
        return self.total - sum(options.dense - options.least for options in self.options)

    @property
    def at_edge(self) -> int:
        """Cost of the model with each of these layers at its edge rank, where that is cheaper."""
        cost = self.total
        for group, options in zip(self.groups, self.options, strict=True):
            ranks = options.ranks
            if len(ranks):
                spikes = max(item.spikes for item in group)
                index = np.searchsorted(ranks, spikes).clip(0, len(ranks) - 1)
                cost -= options.dense - options.cost(int(ranks[index]))
        return cost

    def ranks(self, size: int) -> dict[str, int | Untouched]:
        """The best ranks, by layer name, for a model that costs at most ``size``.

        Raises:
            ValueError: the cheapest ranks cost more.
        """
        fixed = self.total - sum(options.dense for options in self.options)
        ranks = allocate(self.options, size - fixed)
        return {
            item.layer.name: Untouched.BUDGET if rank is None else rank
            for group, rank in zip(self.groups, ranks, strict=True)
            for item in group
        }


def allocation_of(
    checkpoint: Checkpoint,
    fitted: Sequence[Fitted],
    calibrations: ByLayer[LayerCalibration] | None,
    goal: Goal,
    layout: Layout,
) -> Allocation:
    """The layers that share a budget of parameters, bytes or multiply-adds.

    Args:
        checkpoint: the dense network.
        fitted: its layers, with their approximations.
        calibrations: by layer name, or None if nothing was calibrated.
        goal: the unit of its budget, parameters if it has none, and the multiple of all ranks.
        layout: how pruned layers are stored. In a layout that splits no layer, the ranks are those
            that the factored layout would get.

    Raises:
        UsageError: a budget of multiply-adds for convolutions or recurrent layers that were not
            calibrated, so that the number of their positions is not known.
    """
    unit = "parameters" if goal.budget is None else goal.budget.unit
    costs = _Costs(layout if layout.splits else Factored(), unit, calibrations)
    free = [item for item in fitted if not outside_budget(item, calibrations)]
    if unit == "macs" and calibrations is None:
        _refuse_uncounted(checkpoint, free)
    groups = _groups(free)
    options = [
        RankOptions(losses_of(group), costs.of(group), costs.dense(group), 1, goal.rank_multiple)
        for group in groups
    ]
    if unit == "macs":
        others = sum(item.layer.size for item in fitted if outside_budget(item, calibrations))
        total = others + sum(each.dense for each in options)
    else:
        total = checkpoint.bytes if unit == "bytes" else checkpoint.parameters
    return Allocation(groups, options, total)


def _refuse_uncounted(checkpoint: Checkpoint, items: Sequence[Fitted]) -> None:
    others = [item for item in items if not item.layer.linear]
    if others:
        kind, option = _words(others[0])
        raise UsageError(
            f"{checkpoint.path}: {others[0].layer.name} is {kind}, whose multiply-adds depend on "
            f"the size of its input: give inputs with --calib, or leave out {option}"
        )


def _words(item: Fitted) -> tuple[str, str]:
    """What a layer is that is not linear, and the option that asks for it."""
    if item.layer.view.kernel:
        return "a convolution", "--conv"
    return "part of a recurrent layer", "--recurrent"


@dataclass(frozen=True, slots=True)
class _Costs:
    """The costs of layers in one unit.

    Attributes:
        layout: how they are stored if they are pruned.
        unit: ``parameters``, ``bytes`` or ``macs``.
        calibrations: by layer name, or None if nothing was calibrated.
    """

    layout: Layout
    unit: str
    calibrations: ByLayer[LayerCalibration] | None

    def of(self, group: Sequence[Fitted]) -> NDArray[np.int64]:
        """Costs of the ranks from 0 on for layers that share a right factor, or for one layer."""
        most = self.layout.largest_rank(
            sum(x.layer.shape[0] for x in group), group[0].layer.shape[1]
        )
        ranks = range(1 + min(most, len(losses_of(group))))
        return np.array([self._sum(group, rank) for rank in ranks], np.int64)

    def dense(self, group: Sequence[Fitted]) -> int:
        """Cost of the layers as they are."""
        return sum(self._price(item.layer) * item.layer.size for item in group)

    def _sum(self, group: Sequence[Fitted], rank: int) -> int:
        layers = [item.layer for item in group]
        count = self.layout.macs if self.unit == "macs" else self.layout.size
        values = [count(layer, rank, shares=i > 0) for i, layer in enumerate(layers)]
        cost = sum(self._price(x) * n for x, n in zip(layers, values, strict=True))
        if self.unit == "bytes":
            cost += sum(x.copies * self.layout.index_bytes * x.shape[0] for x in layers)
        return cost

    def _price(self, layer: Layer) -> int:
        """Cost of one value of a layer: its copies, its bytes or its uses."""
        if self.unit == "bytes":
            return layer.copies * TYPES[layer.dtype].width
        if self.unit == "macs":
            if self.calibrations is None:
                return 1
            return max(1, round(self.calibrations[layer.name].moments.uses))
        return layer.copies


def timed_allocation(
    checkpoint: Checkpoint,
    fitted: Sequence[Fitted],
    calibrations: ByLayer[LayerCalibration] | None,
    goal: Goal,
    layout: Layout,
    times: Callable[[Layer], Times],
) -> Allocation:
    """The layers that share a budget of time, in nanoseconds.

    Args:
        checkpoint: the dense network.
        fitted: its layers, with their approximations. The time of linear layers that stay as they
            are counts too.
        calibrations: by layer name, or None if nothing was calibrated.
        goal: the multiple of all ranks.
        layout: how pruned layers are stored.
        times: measures a layer.

    Raises:
        UsageError: one of the layers is not linear, so that its time is not known.
    """
    free = [item for item in fitted if not outside_budget(item, calibrations)]
    for item in free:
        if not item.layer.linear:
            raise UsageError(
                f"{checkpoint.path}: {item.layer.name} is {_words(item)[0]}, and a latency budget "
                f"is divided among linear layers only: leave out {_words(item)[1]}"
            )
    total = sum(_nanoseconds(times(item.layer).dense) for item in fitted if item.layer.linear)
    layout = layout if layout.splits else Factored()
    options = [_timed(item, times(item.layer), layout, goal.rank_multiple) for item in free]
    return Allocation([[item] for item in free], options, total)


def losses_of(group: Sequence[Fitted]) -> FloatArray:
    """What dropping each direction adds to the loss of layers that share an approximation."""
    approximation = group[0].approximation
    assert approximation is not None
    return approximation.losses


def _timed(item: Fitted, times: Times, layout: Layout, multiple: int) -> RankOptions:
    """The ranks of a layer, if the cost is time; its size may not grow either."""
    layer, losses = item.layer, losses_of([item])
    ranks = range(1 + min(layout.largest_rank(*layer.shape), len(losses)))
    seconds = [times.of(layout.values(*layer.shape, rank)) for rank in ranks]
    costs = np.array([_nanoseconds(value) for value in seconds], np.int64)
    # Rounded to whole nanoseconds, a rank must still cost more than the one below.
    costs = np.maximum(costs, costs[0] + np.arange(len(costs)))
    return RankOptions(losses, costs, _nanoseconds(times.dense), 1, multiple)


def _nanoseconds(seconds: float) -> int:
    """A time as a whole number, which a budget is divided in."""
    return round(1e9 * seconds)


def _groups(items: Sequence[Fitted]) -> list[list[Fitted]]:
    """Layers that share a right factor together, each other layer alone."""
    groups: dict[str, list[Fitted]] = {}
    for item in items:
        groups.setdefault(item.group or item.layer.name, []).append(item)
    return list(groups.values())


def outside_budget(
    item: Fitted, calibrations: ByLayer[LayerCalibration] | None
) -> Untouched | None:
    """Why a layer has no part in a budget; a layer that cannot be split saves nothing."""
    stays = None if item.layer.view.splits else undivided(item.layer)
    return without_rank(item, calibrations) or stays


def without_rank(item: Fitted, calibrations: ByLayer[LayerCalibration] | None) -> Untouched | None:
    """Why no rank is chosen for a layer, by a rule or under a budget."""
    if item.layer.head:
        return Untouched.NARROW if item.layer.narrow else Untouched.HEAD
    return uncalibrated(item, calibrations)


def uncalibrated(item: Fitted, calibrations: ByLayer[LayerCalibration] | None) -> Untouched | None:
    """Why a layer has no calibration where others have one."""
    if calibrations is None or item.layer.name in calibrations:
        return None
    return calibrations.missing.get(item.layer.name, Untouched.NO_DATA)
