"""The approximated weight in place of the weight."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

import numpy as np

from rmtcli.arrays import FloatArray
from rmtcli.checkpoint import Checkpoint
from rmtcli.checkpoint.names import bias_of, weight_of
from rmtcli.layers import Layer
from rmtcli.layouts.base import LAYOUTS, Layout, Parts
from rmtcli.spectra import Factors, tall

if TYPE_CHECKING:
    from torch import nn


@LAYOUTS.register("dense")
@dataclass(frozen=True, slots=True)
class Dense(Layout):
    """The product of the factors, under the name and in the shape of the weight."""

    splits: ClassVar[bool] = False
    action: ClassVar[str] = "truncated in place"

    def supports(self, layer: Layer) -> bool:
        """Always: the layer's module stays as it is."""
        return True

    def largest_rank(self, outputs: int, inputs: int) -> int:
        """Any rank below full rank, because the size is the same at every rank."""
        return min(outputs, inputs) - 1

    def values(self, outputs: int, inputs: int, rank: int, *, shares: bool = False) -> int:
        """Out · in, at any rank; nothing is shared."""
        return outputs * inputs

    def matrices(self, outputs: int, inputs: int, rank: int) -> tuple[tuple[int, int], ...]:
        """The matrix itself."""
        return ((outputs, inputs),)

    def names(self, weight: str) -> tuple[str, ...]:
        """The weight keeps its name."""
        return (weight,)

    def bias_name(self, weight: str) -> str:
        """The bias keeps its name."""
        return bias_of(weight)

    def compress(self, layer: Layer, factors: Factors, shape: tuple[int, ...]) -> Parts:
        """The product of the factors, as the layer's tensor or its part of it holds the weight."""
        return {layer.tensor: layer.view.stored(factors.product, shape)}

    def decompress(self, checkpoint: Checkpoint, module: str) -> FloatArray:
        """The weight as it is stored: nothing has to be undone."""
        return checkpoint.array(weight_of(module)).astype(np.float64)

    def reconstruct(self, checkpoint: Checkpoint, layer: Layer) -> StoredWeight:
        """The layer's matrix in the file."""
        matrix = tall(layer.view.matrix(layer.view.read(checkpoint, layer.tensor)))
        return StoredWeight(matrix.astype(np.float64))

    def split(self, module: nn.Module, checkpoint: Checkpoint, name: str) -> nn.Module | None:
        """The module as it is."""
        return module

    def example(self, layer: nn.Linear, rank: int) -> nn.Module:
        """The layer itself."""
        return layer


@dataclass(frozen=True, slots=True, eq=False)
class StoredWeight:
    """An approximated weight that a file holds as it is.

    Attributes:
        matrix: the weight, or its transpose where that is the tall one.
    """

    matrix: FloatArray

    def rows(self, rows: slice, unit: float) -> FloatArray:
        """Rows of the matrix."""
        return self.matrix[rows] / unit

    def rounding(self, half: float, least: float, unit: float) -> float:
        """Bound of the change when every entry, at most ``unit``, is rounded."""
        return math.hypot(half, least / unit) * math.sqrt(self.matrix.size)
