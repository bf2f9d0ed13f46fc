"""Symmetric matrices as one half of their entries: as they are added up, stored and sent.

The half of a matrix of shape (d, d) are its rows from the diagonal on, one after the other, shape
(d (d + 1)/2,).
"""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import DTypeLike, NDArray

from rmtcli.arrays import FloatArray


def half(matrix: FloatArray) -> FloatArray:
    """The half of a symmetric matrix, or the part of it that is in its first rows.

    Args:
        matrix: shape (rows, d); what is below the diagonal is not read.
    """
    return np.concatenate([row[i:] for i, row in enumerate(matrix)])


def whole(entries: NDArray[np.floating], dtype: DTypeLike = np.float64) -> FloatArray:
    """The symmetric matrix of which :func:`half` is the half."""
    size = (math.isqrt(8 * len(entries) + 1) - 1) // 2
    matrix, start = np.empty((size, size), dtype), 0
    for i in range(size):
        row = entries[start : start + size - i]
        matrix[i, i:], matrix[i:, i] = row, row
        start += size - i
    return matrix


def diagonal(size: int) -> NDArray[np.int64]:
    """The offsets of a matrix's diagonal in its half, and the half's length, shape (d + 1,)."""
    i = np.arange(size + 1)
    return i * size - i * (i - 1) // 2
