"""Predict what rounding a layer's matrices to few bits adds to its loss."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from rmtcli.layers import Layer
from rmtcli.layouts import Layout
from rmtcli.planning.fit import Approximation, LayerCalibration
from rmtcli.planning.rounded_layer import Matrices, Metric, round_matrices, round_rows
from rmtcli.quantization import ERRORS, Grid, Rounded, is_rounded, nearest

#: Bits at which a layer is rounded to see what that costs; other numbers of bits follow from it.
TRIED = 4
#: The rank at which factors are rounded, as a share of full rank.
SHARE = 0.25
#: Rows of a table that are rounded to see what that costs.
ROWS = 4096


@dataclass(frozen=True, slots=True)
class RoundingLoss:
    """The loss that rounding adds to a layer, divided by the squared error of normal numbers.

    It is nearly proportional to :data:`ERRORS`, and nearly the same at all ranks, because the first
    directions carry most of it.

    Attributes:
        dense: of the layer's weight.
        split: of its matrices in each layout that splits it, by the layout's class.
        tried: the weight in the bits in which the loss was measured; None if it was not rounded.
    """

    dense: float
    split: Mapping[type[Layout], float] = field(default_factory=dict)
    tried: Rounded | None = field(default=None, compare=False, repr=False)

    def of(self, layout: Layout | None, bits: int | None) -> float:
        """The loss that some bits add to a layer, dense if there is no layout."""
        if bits is None:
            return 0.0
        return ERRORS[bits] * (self.dense if layout is None else self.split[type(layout)])


def measure(
    layer: Layer,
    approximation: Approximation | None,
    known: LayerCalibration | None,
    layouts: Sequence[Layout],
) -> RoundingLoss | None:
    """Round a layer to four bits, dense and at one rank in each layout, and measure the losses.

    Without calibration nothing is rounded: the loss is that of errors in proportion to the entries,
    and twice as large with two factors.

    Args:
        layer: the layer.
        approximation: its low-rank approximations; None if it has none.
        known: its calibration.
        layouts: those that split a layer.

    Returns:
        None if its losses are not known.
    """
    if known is None and approximation is not None:
        total = float(approximation.losses.sum())
        return RoundingLoss(total, {type(layout): 2 * total for layout in layouts})
    if known is None:
        return None
    if layer.view.table:
        return _of_table(layer, approximation, known, layouts)
    metric = Metric.of(known)
    if metric.second is None:
        return None
    uses = known.moments.uses / ERRORS[TRIED]
    weight: NDArray[np.floating] = layer.load()
    added, (tried,) = _added(Matrices([weight.astype(np.float64)]), metric)
    split = {}
    if approximation is not None:
        losses = {type(x): _added(_split(layer, approximation, x), metric)[0] for x in layouts}
        split = {kind: uses * loss for kind, loss in losses.items()}
    return RoundingLoss(uses * added, split, tried)


def _of_table(
    table: Layer,
    approximation: Approximation | None,
    known: LayerCalibration,
    layouts: Sequence[Layout],
) -> RoundingLoss:
    """The loss of rounding a table, from some of its rows, which are rounded one by one.

    Its two factors are rounded to the nearest.
    """
    weight: NDArray[np.floating] = table.load()
    some = slice(None, None, -(-weight.shape[1] // ROWS))
    rows = weight[:, some].T.astype(np.float64)
    metric, uses = Metric.of_rows(known, rows), known.moments.uses / ERRORS[TRIED]
    rounded = round_rows(rows, Grid(TRIED).of(rows.shape), metric)
    dense = uses * metric.square(rounded.values.astype(np.float64) - rows)
    if approximation is None:
        return RoundingLoss(dense)
    factors = approximation.factors(max(1, round(SHARE * len(approximation.losses))))
    parts = factors.right[:, some].T, factors.left
    right, left = (nearest(part, Grid(TRIED).of(part.shape)).values for part in parts)
    error = right.astype(np.float64) @ left.T - parts[0] @ parts[1].T
    split = uses * metric.square(error)
    return RoundingLoss(dense, {type(layout): split for layout in layouts})


def _split(layer: Layer, approximation: Approximation, layout: Layout) -> Matrices:
    """A layer's matrices at one rank in a layout."""
    most = min(layout.largest_rank(*layer.shape), len(approximation.losses))
    rank = max(1, min(round(SHARE * len(approximation.losses)), most))
    factors = approximation.factors(rank)
    parts = [*layout.compress(layer, factors, layer.shape).values()]
    order = parts[2].astype(np.int64) if len(parts) > 2 else None
    return Matrices([part.astype(np.float64) for part in parts[:2]], order)


def _added(before: Matrices, metric: Metric) -> tuple[float, Sequence[Rounded] | tuple[None]]:
    """The loss that four bits add, and the rounded matrices; None for those that stay."""
    shapes = [part.shape for part in before.parts]
    if not all(map(is_rounded, shapes)):
        return 0.0, (None,)
    rounded = round_matrices(before, Grid(TRIED).of(shapes[0]), metric)
    after = Matrices([part.values.astype(np.float64) for part in rounded], before.order)
    return metric.square(after.product - before.product), rounded
