"""Rounding the matrices of one layer, one after the other, and what that adds to its loss."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from rmtcli.arrays import FloatArray
from rmtcli.planning.fit import LayerCalibration
from rmtcli.quantization import OUTPUT_RIDGE, Grid, Rounded, ridged, round_left, round_weight


@dataclass(frozen=True)
class Matrices:
    """The matrices that a layer's inputs pass through.

    Attributes:
        parts: the weight, shape (out, in), or the right and the left factor.
        order: for pivot rows, the position of each output among theirs and the others'.
    """

    parts: Sequence[FloatArray]
    order: NDArray[np.int64] | None = None

    def outputs(self, inputs: FloatArray) -> FloatArray:
        """The outputs without bias, shape (out,) or (out, n), for inputs (in,) or (in, n)."""
        made = [inputs]
        for matrix in self.parts:
            made.append(matrix @ made[-1])
        return made[-1] if self.order is None else np.concatenate(made[1:])[self.order]

    @cached_property
    def left(self) -> FloatArray:
        """Shape (out, r): the left factor, or the coefficients of all rows in pivot rows."""
        last = self.parts[-1]
        if self.order is None:
            return last
        return np.concatenate([np.eye(last.shape[1]), last])[self.order]

    @cached_property
    def rest(self) -> NDArray[np.int64]:
        """The outputs that the last matrix computes, in the order of its rows."""
        if self.order is None:
            return np.arange(len(self.parts[-1]))
        rank = len(self.parts[0])
        return np.argsort(self.order, kind="stable")[int((self.order < rank).sum()) :]

    @cached_property
    def product(self) -> FloatArray:
        """The layer's weight, shape (out, in)."""
        return self.parts[0] if len(self.parts) == 1 else self.left @ self.parts[0]


@dataclass(frozen=True, slots=True, eq=False)
class Metric:
    """The measure of an error of a layer; what is not known is None.

    Attributes:
        second: shape (in, in), the second moment of the inputs; centred if a bias takes the mean.
        mean: shape (in,), the mean input, if a bias takes up its error.
        outputs: shape (out, out), the second moment of the gradients of the outputs.
    """

    second: FloatArray | None = None
    mean: FloatArray | None = None
    outputs: FloatArray | None = None

    @staticmethod
    def of(known: LayerCalibration | None) -> Metric:
        """The metric of a layer from its calibration; moments of outputs alone do not give one."""
        if known is None:
            return Metric()
        moments = known.moments
        outputs = moments.gradient if known.gradients else None
        if moments.of_outputs:
            return Metric()
        if known.bias:
            return Metric(moments.covariance, moments.mean, outputs)
        return Metric(moments.second, None, outputs)

    @staticmethod
    def of_rows(known: LayerCalibration | None, rows: FloatArray) -> Metric:
        """The metric of a table's rows, which are the outputs that it looks up.

        A row's error counts as often as its token occurs. Rounding changes all rows by about the
        same share of their norms, so that their mean square, that of the rows which were looked
        up, is all that has to be known of the frequencies.

        Args:
            known: the calibration of the table by its outputs; None for any other matrix.
            rows: shape (tokens, out), the table or some of its rows.
        """
        if known is None or not known.moments.of_outputs:
            return Metric()
        moments, total = known.moments, float(np.square(rows).sum())
        outputs = moments.gradient if known.gradients else None
        used = float(np.trace(moments.second)) / total if total > 0 else 0.0
        return Metric(used * (np.eye(rows.shape[1]) if outputs is None else outputs))

    def square(self, weight: FloatArray) -> float:
        """E‖R W x‖², the mean square of a map's outputs in this metric."""
        assert self.second is not None
        images = weight if self.outputs is None else self.outputs @ weight
        return float(np.einsum("ij,ij->", images, weight @ self.second))

    def loss(self, before: Matrices, after: Matrices, known: float | None) -> float | None:
        """The loss of a rounded layer, as a share of that of dropping the layer.

        What an approximation misses and what rounding changes are orthogonal, so that their losses
        add up.

        Args:
            before: the layer before it was rounded.
            after: the rounded layer.
            known: the loss of the approximation; None if the layer is dense or was not calibrated.
        """
        if self.second is None:
            return known
        whole, missed = self.square(before.product), known or 0.0
        added = self.square(after.product - before.product) / whole if whole > 0 else 0.0
        return missed + (1 - missed) * added


def round_rows(rows: FloatArray, grid: Grid, metric: Metric) -> Rounded:
    """Round the rows of a table, with feedback where the gradients of its outputs are known.

    Args:
        rows: shape (tokens, out).
        grid: their grid.
        metric: the measure of an error, by :meth:`Metric.of_rows`.
    """
    second = metric.second
    return round_weight(rows, None if second is None else ridged(second, OUTPUT_RIDGE), grid)


def round_matrices(
    before: Matrices, grid: Grid, metric: Metric, first: Rounded | None = None
) -> list[Rounded]:
    """Round a layer's weight, or its right factor and then its left one.

    Args:
        before: the matrices.
        grid: the grid of the weight or the right factor.
        metric: the measure of an error.
        first: the right factor, if it is rounded already.
    """
    outputs, left = metric.outputs, before.left
    if len(before.parts) == 1:
        return [round_weight(before.parts[0], metric.second, grid, outputs)]
    used = None if outputs is None else left.T @ outputs @ left
    rounded = first or round_weight(before.parts[0], metric.second, grid, used)
    values = rounded.values.astype(np.float64)
    own = Grid(grid.bits, grid.group).along_longer(before.parts[1].shape)
    rows = None if outputs is None else outputs[np.ix_(before.rest, before.rest)]
    return [
        rounded,
        round_left(before.parts[1], before.parts[0], values, metric.second, own, rows),
    ]
