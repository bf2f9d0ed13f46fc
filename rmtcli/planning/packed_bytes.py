"""Bytes of matrices in few bits, as a file holds them."""

from __future__ import annotations

from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from rmtcli.checkpoint.dtypes import TYPES
from rmtcli.layers import Layer
from rmtcli.layouts import Layout
from rmtcli.quantization import Grid, is_rounded

#: Bytes in which a file stores the shape of a matrix in few bits.
_SHAPE = 16


def stored_shape(layer: Layer) -> tuple[int, int]:
    """The shape of the tensor that holds a layer."""
    return (layer.shape[1], layer.shape[0]) if layer.view.transposed else layer.shape


def matrix_bytes(
    shape: tuple[int, ...], dtype: str, bits: int | None, *, left: bool = False
) -> int:
    """Bytes of a matrix in a file.

    Args:
        shape: of the tensor.
        dtype: its type.
        bits: bits per entry; None for its type, which a matrix with short sides keeps.
        left: whether it is a left factor, which is packed along its longer side.
    """
    if bits is None or not is_rounded(shape):
        return int(np.prod(shape)) * TYPES[dtype].width
    grid = Grid(bits).along_longer(shape) if left else Grid(bits).of(shape)
    return grid.nbytes(*shape) + _SHAPE


def rank_bytes(layout: Layout, layer: Layer, bits: int | None, most: int) -> NDArray[np.int64]:
    """Bytes of a layer in a layout, for every rank from 0 to ``most``."""
    return _costs(layout, layer.shape, layer.dtype, bits, most, layer.view.table)


@lru_cache(maxsize=1024)
def _costs(
    layout: Layout, shape: tuple[int, int], dtype: str, bits: int | None, most: int, table: bool
) -> NDArray[np.int64]:
    def cost(rank: int) -> int:
        first, *rest = layout.matrices(*shape, rank)
        first = (first[1], first[0]) if table else first
        last = sum(matrix_bytes(each, dtype, bits, left=not table) for each in rest)
        return matrix_bytes(first, dtype, bits) + last + layout.index_bytes * shape[0]

    return np.array([0, *map(cost, range(1, most + 1))], np.int64)
