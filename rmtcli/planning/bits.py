"""Divide one budget of bytes among the ranks of layers and the bits of all matrices."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from rmtcli.arrays import FloatArray
from rmtcli.checkpoint import Checkpoint
from rmtcli.checkpoint.dtypes import FLOATS, TYPES
from rmtcli.keep import Untouched
from rmtcli.layouts import Layout
from rmtcli.planning.allocate import divide
from rmtcli.planning.allocation import Division, outside_budget
from rmtcli.planning.fit import Fitted, LayerCalibration
from rmtcli.planning.packed_bytes import matrix_bytes, rank_bytes, stored_shape
from rmtcli.planning.rounding_loss import RoundingLoss, Trial
from rmtcli.quantization import is_rounded

if TYPE_CHECKING:
    from rmtcli.calibration import ByLayer

#: Numbers of bits among which that of each matrix is chosen; without data, 8 are safe.
BITS, SAFE = (8, 6, 5, 4, 3, 2), (8,)
#: Times that a budget is divided once more after rounding was measured in what it chose.
ROUNDS = 4


@dataclass(frozen=True, slots=True)
class Option:
    """One way to store a matrix.

    Attributes:
        rank: its rank; None if it is not approximated.
        layout: how it is stored; None if it is not approximated.
        bits: bits per entry; None for the type that it has.
    """

    rank: int | None
    layout: Layout | None
    bits: int | None


@dataclass(frozen=True, slots=True, eq=False)
class Options:
    """The ways to store one matrix of which none is both larger and worse than another.

    Attributes:
        name: of the layer, or of a tensor that is no layer with a part in the budget.
        tensors: the tensors that hold it.
        dense: bytes of the matrix as it is.
        costs: shape (n,), bytes of each option, ascending.
        losses: shape (n,), the loss of each option, descending.
        options: the options.
    """

    name: str
    tensors: Sequence[str]
    dense: int
    costs: NDArray[np.int64]
    losses: FloatArray
    options: Sequence[Option]

    @staticmethod
    def of(
        name: str, tensors: Sequence[str], dense: int, made: Sequence[tuple[int, float, Option]]
    ) -> Options:
        """The options of least loss for their cost, from (cost, loss, option) of all."""
        best: list[tuple[int, float, Option]] = []
        for each in sorted(made, key=lambda entry: entry[:2]):
            if not best or each[1] < best[-1][1]:
                best.append(each)
        costs, losses, options = zip(*best, strict=True)
        return Options(name, tensors, dense, np.array(costs), np.array(losses), options)


@dataclass(frozen=True, slots=True, eq=False)
class BitAllocation:
    """The matrices among which a budget of bytes is divided.

    Attributes:
        layers: the options of each layer that has a part in the budget.
        others: the options of all other matrices, which get bits and no rank.
        total: bytes of the dense model, other tensors included.
        measured: gives the allocation once rounding was measured in each matrix's choice; None if
            nothing is new.
    """

    layers: Sequence[Options]
    others: Sequence[Options]
    total: int
    measured: Callable[[Mapping[str, Option]], BitAllocation | None] = lambda _: None

    @property
    def least(self) -> int:
        """Bytes of the model with each matrix at its smallest."""
        return self.total - sum(x.dense - int(x.costs[0]) for x in (*self.layers, *self.others))

    @property
    def at_edge(self) -> int:
        """A size to try first when the size is searched for."""
        return max(self.least, self.total // 8)

    def divide(self, size: int) -> Division:
        """The best ranks and bits for a model of at most ``size`` bytes.

        Raises:
            ValueError: the smallest options together take more.
        """
        picks = self._picks(size)
        chosen = {x.name: x.options[pick] for x, pick in picks}
        layers = {x.name: chosen[x.name] for x in self.layers}
        return Division(
            {n: Untouched.BUDGET if x.rank is None else x.rank for n, x in layers.items()},
            {n: x.layout for n, x in layers.items() if x.layout is not None},
            sum(float(x.losses[pick]) for x, pick in picks),
            {name: chosen[x.name].bits for x, _ in picks for name in x.tensors},
        )

    def settled(self, size: int) -> BitAllocation:
        """This allocation once rounding was measured in all that it chooses for a size.

        Raises:
            ValueError: the smallest options together take more.
        """
        allocation = self
        for _ in range(ROUNDS):
            chosen = {x.name: x.options[pick] for x, pick in allocation._picks(size)}
            after = allocation.measured(chosen)
            if after is None:
                break
            allocation = after
        return allocation

    def _picks(self, size: int) -> list[tuple[Options, int]]:
        """All matrices, each with the number of its option."""
        every = (*self.layers, *self.others)
        tables = [(x.costs.astype(np.float64), x.losses) for x in every]
        picks = divide(tables, size - self.total + sum(x.dense for x in every))
        return list(zip(every, picks, strict=True))


@dataclass(frozen=True, eq=False)
class BitChoices:
    """Makes the allocation for the layers of a network, also of a narrower one.

    Attributes:
        checkpoint: the dense network.
        calibrations: by layer name, or None if nothing was calibrated.
        layouts: the layouts that split a layer.
        bits: the numbers of bits among which that of each matrix is chosen; None for its type.
        rounding: what rounding the layers adds to their losses, by name; those of a narrower
            network are at most as large. Losses that are measured later are added.
        multiple: ranks are multiples of it.
        trials: round layers and tables to see what that costs, by name.
    """

    checkpoint: Checkpoint
    calibrations: ByLayer[LayerCalibration] | None
    layouts: Sequence[Layout]
    bits: Sequence[int | None]
    rounding: dict[str, RoundingLoss]
    multiple: int = 1
    trials: Mapping[str, Trial] = field(default_factory=dict)

    def allocation(self, fitted: Sequence[Fitted]) -> BitAllocation:
        """The allocation for these layers."""
        free, shapes = dict[str, Fitted](), dict[str, tuple[int, ...]]()
        for item in fitted:
            whole = item.layer.view.rows is None
            if whole and item.layer.name == item.layer.tensor:
                shapes[item.layer.tensor] = item.layer.shape
                if outside_budget(item, self.calibrations) is None:
                    free[item.layer.tensor] = item
        infos, others = self.checkpoint.infos, []
        layers = [self._layer(item) for item in free.values()]
        held = {name for layer in layers for name in layer.tensors}
        for name in self.checkpoint.distinct:
            info = infos[name]
            shape = shapes.get(name, info.shape)
            if name not in held and info.dtype in FLOATS and is_rounded(shape):
                others.append(self._other(name, shape))
        return BitAllocation(layers, others, self.checkpoint.bytes, partial(self._measured, fitted))

    def _measured(
        self, fitted: Sequence[Fitted], chosen: Mapping[str, Option]
    ) -> BitAllocation | None:
        """The allocation with the losses of these options; None if they were measured before."""
        new = False
        for name, x in chosen.items():
            trial, known = self.trials.get(name), self.rounding.get(name)
            if trial is None or known is None or not trial.measures:
                continue
            if x.bits is not None and not known.knows(x.layout, x.bits):
                loss, new = trial.loss(x.layout, x.rank or 0, x.bits), True
                self.rounding[name] = known.with_measured(x.layout, x.bits, loss)
        return self.allocation(fitted) if new else None

    def _layer(self, item: Fitted) -> Options:
        """The options of one layer."""
        layer = item.layer
        rounding = self.rounding.get(layer.name) or self._unknown(layer.size)
        dense = layer.copies * TYPES[layer.dtype].width * layer.size
        losses = np.zeros(0) if item.approximation is None else item.approximation.losses
        tail = np.append(np.cumsum(losses[::-1])[::-1], 0.0)
        made = list[tuple[int, float, Option]]()
        for bits in (None,) if layer.view.kernel else self.bits:
            cost = layer.copies * matrix_bytes(stored_shape(layer), layer.dtype, bits)
            made.append((cost, rounding.of(None, bits), Option(None, None, bits)))
            for layout in self.layouts if layer.view.splits else ():
                most = min(layout.largest_rank(*layer.shape), len(losses))
                costs = layer.copies * rank_bytes(layout, layer, bits, most)
                added = rounding.of(layout, bits)
                made += [
                    (int(costs[rank]), float(tail[rank]) + added, Option(rank, layout, bits))
                    for rank in range(self.multiple, most + 1, self.multiple)
                    if costs[rank] < dense
                ]
        return Options.of(layer.name, (layer.tensor, *layer.tied), dense, made)

    def _other(self, name: str, shape: tuple[int, ...]) -> Options:
        """The options of a matrix that gets no rank."""
        dtype = self.checkpoint.infos[name].dtype
        rounding = self.rounding.get(name) or self._unknown(shape[0] * shape[1])
        made = [
            (matrix_bytes(shape, dtype, bits), rounding.of(None, bits), Option(None, None, bits))
            for bits in self.bits
        ]
        return Options.of(name, (name,), matrix_bytes(shape, dtype, None), made)

    def _unknown(self, size: int) -> RoundingLoss:
        """The loss of rounding a matrix that was not measured: that of the others, by size.

        Most entries of a table of tokens are seldom used: tables do not count, if there are others.
        """
        infos = self.checkpoint.infos
        known: Mapping[str, LayerCalibration] = self.calibrations or {}
        tables = {name for name, each in known.items() if each.moments.of_outputs}
        names = [name for name in self.rounding if name not in tables] or list(self.rounding)
        entries = sum(infos[name].size for name in names if name in infos)
        loss = sum(self.rounding[name].dense for name in names) * size / max(1, entries)
        return RoundingLoss(loss, {type(layout): 2 * loss for layout in self.layouts})
