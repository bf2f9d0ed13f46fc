"""Predict what rounding a layer's matrices to few bits adds to its loss."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

import numpy as np
from numpy.typing import NDArray

from rmtcli.layers import Layer
from rmtcli.layouts import Layout
from rmtcli.planning.fit import Approximation, LayerCalibration
from rmtcli.planning.rounded_layer import Matrices, Metric, round_matrices, round_rows
from rmtcli.quantization import ERRORS, Grid, Rounded, is_rounded, nearest

#: Bits at which a layer is rounded first; other numbers of bits follow from it.
TRIED = 4
#: The rank at which factors are rounded first, as a share of full rank.
SHARE = 0.25
#: Rows of a table that are rounded to see what that costs.
ROWS = 4096


@dataclass(frozen=True, slots=True)
class RoundingLoss:
    """The loss that rounding adds to a layer.

    At bits in which it was not measured it is nearly proportional to :data:`ERRORS`, and it is
    nearly the same at all ranks, because the first directions carry most of it.

    Attributes:
        dense: of the layer's weight, divided by the squared error of normal numbers.
        split: of its matrices in each layout that splits it, by the layout's class, divided by the
            same.
        measured: the loss where it was measured, by the layout's class, None for the dense layer,
            and by bits.
    """

    dense: float
    split: Mapping[type[Layout], float] = field(default_factory=dict)
    measured: Mapping[tuple[type[Layout] | None, int], float] = field(default_factory=dict)

    def of(self, layout: Layout | None, bits: int | None) -> float:
        """The loss that some bits add to a layer, dense if there is no layout."""
        if bits is None:
            return 0.0
        kind = None if layout is None else type(layout)
        known = self.measured.get((kind, bits))
        if known is not None:
            return known
        return ERRORS[bits] * (self.dense if kind is None else self.split[kind])

    def knows(self, layout: Layout | None, bits: int) -> bool:
        """Whether the loss at some bits was measured."""
        return (None if layout is None else type(layout), bits) in self.measured

    def with_measured(self, layout: Layout | None, bits: int, loss: float) -> RoundingLoss:
        """This loss with one that was measured."""
        key = None if layout is None else type(layout), bits
        return replace(self, measured={**self.measured, key: loss})


@dataclass(slots=True)
class Trial:
    """Rounds the matrices of one layer to see what that costs.

    Attributes:
        layer: the layer.
        approximation: its low-rank approximations; None if it has none.
        known: its calibration, by its inputs or, of a table, by its outputs.
        rounded: the weight as it was rounded last; None of a table, and where it was not rounded.
    """

    layer: Layer
    approximation: Approximation | None
    known: LayerCalibration | None
    rounded: Rounded | None = field(default=None, repr=False)

    @property
    def measures(self) -> bool:
        """Whether the moments give a metric of errors of the weight."""
        return self.known is not None and (
            self.layer.view.table or Metric.of(self.known).second is not None
        )

    def loss(self, layout: Layout | None, rank: int, bits: int) -> float:
        """The loss that rounding adds, where it can be measured.

        Args:
            layout: how the layer is stored; None if it is dense.
            rank: its rank in that layout, as far as the layout has ranks.
            bits: bits per entry.
        """
        assert self.known is not None
        if self.layer.view.table:
            return self._of_table(layout, rank, bits)
        metric = Metric.of(self.known)
        before = self._dense() if layout is None else self._split(layout, rank)
        shapes = [part.shape for part in before.parts]
        if not all(map(is_rounded, shapes)):
            return 0.0
        rounded = round_matrices(before, Grid(bits).of(shapes[0]), metric)
        if layout is None:
            self.rounded = rounded[0]
        after = Matrices([part.values.astype(np.float64) for part in rounded], before.order)
        return self.known.moments.uses * metric.square(after.product - before.product)

    def _dense(self) -> Matrices:
        weight: NDArray[np.floating] = self.layer.load()
        return Matrices([weight.astype(np.float64)])

    def _split(self, layout: Layout, rank: int) -> Matrices:
        """The layer's matrices at one rank in a layout."""
        assert self.approximation is not None
        most = min(layout.largest_rank(*self.layer.shape), len(self.approximation.losses))
        factors = self.approximation.factors(max(1, min(rank, most)))
        parts = [*layout.compress(self.layer, factors, self.layer.shape).values()]
        order = parts[2].astype(np.int64) if len(parts) > 2 else None
        return Matrices([part.astype(np.float64) for part in parts[:2]], order)

    def _of_table(self, layout: Layout | None, rank: int, bits: int) -> float:
        """The loss of rounding some of a table's rows, one by one; factors to the nearest."""
        weight: NDArray[np.floating] = self.layer.load()
        some = slice(None, None, -(-weight.shape[1] // ROWS))
        rows = weight[:, some].T.astype(np.float64)
        assert self.known is not None
        metric, uses = Metric.of_rows(self.known, rows), self.known.moments.uses
        if layout is None:
            rounded = round_rows(rows, Grid(bits).of(rows.shape), metric)
            return uses * metric.square(rounded.values.astype(np.float64) - rows)
        assert self.approximation is not None
        factors = self.approximation.factors(max(1, rank))
        parts = factors.right[:, some].T, factors.left
        right, left = (nearest(part, Grid(bits).of(part.shape)).values for part in parts)
        return uses * metric.square(right.astype(np.float64) @ left.T - parts[0] @ parts[1].T)


def measure(trial: Trial, layouts: Sequence[Layout]) -> RoundingLoss | None:
    """Round a layer to four bits, dense and at one rank in each layout, and measure the losses.

    Without calibration nothing is rounded: the loss is that of errors in proportion to the entries,
    and twice as large with two factors.

    Args:
        trial: rounds the layer.
        layouts: those that split a layer.

    Returns:
        None if its losses are not known.
    """
    approximation = trial.approximation
    if trial.known is None and approximation is not None:
        total = float(approximation.losses.sum())
        return RoundingLoss(total, {type(layout): 2 * total for layout in layouts})
    if not trial.measures:
        return None
    dense, split = trial.loss(None, 0, TRIED), dict[type[Layout], float]()
    if approximation is not None:
        rank = round(SHARE * len(approximation.losses))
        split = {type(x): trial.loss(x, rank, TRIED) / ERRORS[TRIED] for x in layouts}
    return RoundingLoss(dense / ERRORS[TRIED], split, {(None, TRIED): dense})
