"""Rounding with error feedback: entries that are not yet rounded make up for an entry's error."""

from __future__ import annotations

import numpy as np
import scipy
from numpy.typing import NDArray

from rmtcli.arrays import FloatArray
from rmtcli.quantization.grid import Grid, Rounded, choose_scales

#: Ridge of the inputs' second moment, as a share of its mean eigenvalue: no error is moved into
#: directions that the calibration data say little about.
RIDGE = 0.01
#: Ridge of the moment of the output gradients. It is larger because calibration has fewer of them;
#: docs/benchmarks-transformers.md compares several.
OUTPUT_RIDGE = 0.3
#: Columns that are rounded before the columns after them are updated, and number of parts into
#: which rows are divided.
BLOCK, BLOCKS = 32, 16


def with_feedback(
    weight: FloatArray, second: FloatArray, grid: Grid, outputs: FloatArray | None = None
) -> Rounded:
    """Round a matrix so that what its outputs are used for changes little.

    The loss of an error E is tr(G E C Eᵀ), with C the second moment of the inputs and G that of the
    gradients of the outputs. Column by column, in the order of falling variance of the inputs: a
    column is rounded, and the columns that are left take up its error as well as they can, by
    regression on the inputs (Frantar, Ashkboos, Hoefler and Alistarh, GPTQ, 2022). With G, rows are
    rounded in blocks, and the rows that are left take up the errors of a block in the same way.
    Scales are chosen before.

    Args:
        weight: shape (out, in).
        second: shape (in, in), the second moment of the inputs; centred where a bias takes up the
            error of the mean.
        grid: the grid.
        outputs: shape (out, out), the second moment of the gradients of the outputs; without it,
            all outputs count alike.
    """
    variances = np.diagonal(second)
    scales = choose_scales(weight, grid, variances + RIDGE * variances.mean())
    columns = np.argsort(-variances, kind="stable")
    right = _inverse_root(second[np.ix_(columns, columns)], RIDGE)
    rows, left, step = np.arange(len(weight)), None, len(weight)
    if outputs is not None:
        rows = np.argsort(-np.diagonal(outputs), kind="stable")
        step = max(1, len(rows) // BLOCKS)
        left = _inverse_root(outputs[np.ix_(rows, rows)], OUTPUT_RIDGE)
    order = np.ix_(rows, columns)
    rest, each = weight[order].astype(np.float64), grid.spread(scales, *weight.shape)[order]
    made, codes = np.empty(rest.shape, np.int8), np.empty(rest.shape, np.int8)
    for start in range(0, len(rest), step):
        block, after = slice(start, start + step), slice(start + step, None)
        made[block] = _by_columns(rest[block], each[block], right, grid)
        if left is not None and start + step < len(rest):
            errors = rest[block] - made[block] * each[block]
            own = left[block, block]
            errors = scipy.linalg.solve_triangular(own, errors, trans="T")
            rest[after] -= left[block, after].T @ errors
    codes[order] = made
    return Rounded(grid, codes, scales)


def _by_columns(
    weight: FloatArray, scales: FloatArray, upper: FloatArray, grid: Grid
) -> NDArray[np.int8]:
    """The codes of some rows, whose columns are rounded one after the other.

    Args:
        weight: shape (rows, in), columns in the order in which they are rounded.
        scales: the scale of each entry.
        upper: shape (in, in), from :func:`_inverse_root`.
        grid: the grid.
    """
    # Transposed, so that what is rounded at a time lies together in memory.
    rest, scale = np.array(weight.T, order="C"), np.ascontiguousarray(scales.T)
    inverse = np.divide(1.0, scale, out=np.zeros_like(scale), where=scale != 0)
    codes, (entries, rows) = np.empty(rest.shape, np.int8), rest.shape
    for start in range(0, entries, BLOCK):
        stop = min(start + BLOCK, entries)
        errors = np.empty((stop - start, rows))
        for column in range(start, stop):
            code = np.rint(rest[column] * inverse[column])
            np.minimum(np.maximum(code, -grid.largest - 1, out=code), grid.largest, out=code)
            codes[column] = code
            error = (rest[column] - code * scale[column]) / upper[column, column]
            errors[column - start] = error
            rest[column + 1 : stop] -= upper[column, column + 1 : stop, None] * error
        rest[stop:] -= upper[start:stop, stop:].T @ errors
    return codes.T


def ridged(moment: FloatArray, share: float) -> FloatArray:
    """A second moment with a ridge, which is a share of its mean eigenvalue."""
    ridge = share * float(np.trace(moment)) / len(moment) + np.finfo(np.float64).tiny
    return np.asarray(moment + ridge * np.eye(len(moment)))


def _inverse_root(moment: FloatArray, share: float) -> FloatArray:
    """The upper triangular U with UᵀU the inverse of a second moment M, which gets a ridge.

    With rows and columns in reverse, a Cholesky factor is an upper triangular A with M = A Aᵀ, and
    U is its inverse.
    """
    reverse = np.linalg.cholesky(ridged(moment, share)[::-1, ::-1])
    inverse, _ = scipy.linalg.lapack.dtrtri(np.asfortranarray(reverse[::-1, ::-1]), lower=0)
    return np.ascontiguousarray(inverse)
