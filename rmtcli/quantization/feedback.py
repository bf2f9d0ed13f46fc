"""Rounding with error feedback: entries that are not yet rounded make up for an entry's error."""

from __future__ import annotations

import numpy as np
import scipy.linalg

from rmtcli.arrays import FloatArray
from rmtcli.quantization.grid import Grid, Rounded, choose_scales, codes_of

#: Ridge of the inputs' second moment, as a share of its mean eigenvalue: no error is moved into
#: directions that the calibration data say little about.
RIDGE = 0.01
#: Columns that are rounded before the columns after them are updated.
BLOCK = 128


def with_feedback(weight: FloatArray, second: FloatArray, grid: Grid) -> Rounded:
    """Round a matrix so that its outputs change little on inputs of a given second moment.

    Column by column, in the order of falling variance of the inputs: a column is rounded, and the
    columns that are left take up its error as well as they can, by regression on the inputs
    (Frantar, Ashkboos, Hoefler and Alistarh, GPTQ, 2022). Scales are chosen before.

    Args:
        weight: shape (out, in).
        second: shape (in, in), the second moment of the inputs; centred where a bias takes up the
            error of the mean.
        grid: the grid.
    """
    variances = np.diagonal(second)
    scales = choose_scales(weight, grid, variances + RIDGE * variances.mean())
    each = grid.spread(scales, *weight.shape)
    order = np.argsort(-variances, kind="stable")
    upper = _inverse_root(second[np.ix_(order, order)])
    rest, each = weight[:, order].astype(np.float64), each[:, order]
    codes = np.empty(weight.shape, np.int8)
    for start in range(0, weight.shape[1], BLOCK):
        stop = min(start + BLOCK, weight.shape[1])
        errors = np.empty((len(weight), stop - start))
        for column in range(start, stop):
            code = codes_of(rest[:, column], each[:, column], grid)
            codes[:, order[column]] = code
            error = (rest[:, column] - code * each[:, column]) / upper[column, column]
            rest[:, column:stop] -= np.outer(error, upper[column, column:stop])
            errors[:, column - start] = error
        rest[:, stop:] -= errors @ upper[start:stop, stop:]
    return Rounded(grid, codes, scales)


def _inverse_root(second: FloatArray) -> FloatArray:
    """The upper triangular U with UᵀU the inverse of the second moment, which gets a ridge."""
    ridge = RIDGE * float(np.trace(second)) / len(second) + np.finfo(np.float64).tiny
    inverse = scipy.linalg.inv(second + ridge * np.eye(len(second)))
    return np.asarray(scipy.linalg.cholesky((inverse + inverse.T) / 2))
