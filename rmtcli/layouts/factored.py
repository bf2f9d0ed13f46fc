"""Two small layers in place of one."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

import numpy as np

from rmtcli.arrays import FloatArray
from rmtcli.checkpoint import Checkpoint, TensorInfo
from rmtcli.checkpoint.dtypes import FLOATS
from rmtcli.checkpoint.names import factors_of, unit_of
from rmtcli.layers import Layer, break_even
from rmtcli.layouts.base import LAYOUTS, Layout, Parts, no_longer_whole, own_shape
from rmtcli.spectra import Factors

if TYPE_CHECKING:
    from torch import nn


@LAYOUTS.register("factored")
@dataclass(frozen=True, slots=True)
class Factored(Layout):
    """Two factors, each the weight of a module of its own.

    A weight becomes ``….0.weight`` (rank × in) and ``….1.weight`` (out × rank), and its bias
    ``….1.bias``: the names in ``nn.Sequential(Linear(in, rank, bias=False), Linear(rank, out))``.
    A look-up table becomes ``….0.weight`` (in × rank) and ``….1.weight`` (out × rank), the names in
    ``nn.Sequential(Embedding(in, rank), Linear(rank, out, bias=False))``.
    """

    splits: ClassVar[bool] = True
    shared_parts: ClassVar[int] = 1
    shares: ClassVar[str] = "the first factor"
    action: ClassVar[str] = "split in two"

    def supports(self, layer: Layer) -> bool:
        """Whether a module of its own multiplies by the weight."""
        return layer.view.splits

    def largest_rank(self, outputs: int, inputs: int) -> int:
        """The break-even rank: the largest at which the factors are smaller than the weight."""
        return break_even(outputs, inputs)

    def values(self, outputs: int, inputs: int, rank: int, *, shares: bool = False) -> int:
        """r(out + in), or r·out if the right factor is stored elsewhere."""
        return rank * (outputs if shares else outputs + inputs)

    def matrices(self, outputs: int, inputs: int, rank: int) -> tuple[tuple[int, int], ...]:
        """The right and the left factor."""
        return (rank, inputs), (outputs, rank)

    def names(self, weight: str) -> tuple[str, ...]:
        """Names of the right and the left factor."""
        right, left, _ = factors_of(unit_of(weight))
        return right, left

    def bias_name(self, weight: str) -> str:
        """The second module holds the bias."""
        return factors_of(unit_of(weight))[2]

    def compress(self, layer: Layer, factors: Factors, shape: tuple[int, ...]) -> Parts:
        """The two factors as the modules in the layer's place hold them."""
        left, right = layer.view.factors(factors.left, factors.right)
        return dict(zip(self.names(layer.tensor), (right, left), strict=True))

    def decompress(self, checkpoint: Checkpoint, module: str) -> FloatArray:
        """The product of the factors: a matrix, or a convolution's kernels."""
        left, right = factor_matrices(checkpoint, module)
        first, second, _ = (checkpoint.infos.get(name) for name in factors_of(module))
        assert first is not None
        assert second is not None
        if is_table(first, second):
            return (left @ right).T
        product = (left @ right).reshape(len(left), *first.shape[1:])
        transposed = module.rpartition(".")[2] in checkpoint.about.transposed
        return product.T if transposed else product

    def reconstruct(self, checkpoint: Checkpoint, layer: Layer) -> Product:
        """The product of the factors, never held whole."""
        left, right = factor_matrices(checkpoint, layer.module)
        return Product(left, right)

    def split(self, module: nn.Module, checkpoint: Checkpoint, name: str) -> nn.Module | None:
        """Two modules in a row: linear maps, a table and a map, or two convolutions."""
        from rmtcli.layouts.split import split_module  # needs torch
        from rmtcli.layouts.tables import split_table

        right, left, bias = factors_of(name)
        (_, inputs, *_), (outputs, rank, *_) = (checkpoint.infos[x].shape for x in (right, left))
        if is_table(checkpoint.infos[right], checkpoint.infos[left]):
            return split_table(module, rank)
        shape = own_shape(checkpoint, outputs, inputs)
        return split_module(module, rank, bias=bias in checkpoint.infos, shape=shape)

    def example(self, layer: nn.Linear, rank: int) -> nn.Module:
        """Two linear maps."""
        from rmtcli.layouts.split import SplitLinear  # needs torch

        return SplitLinear(layer, rank, bias=layer.bias is not None)

    def check(self, checkpoint: Checkpoint, module: str) -> None:
        """Make sure that a checkpoint holds both factors of a module, with one rank."""
        right, left, _ = factors_of(module)
        a, b = checkpoint.infos.get(right), checkpoint.infos.get(left)
        if (
            a is None
            or b is None
            or not 2 <= len(a.shape) == len(b.shape)
            or not (a.shape[0] == b.shape[1] or is_table(a, b))
            or set(b.shape[2:]) > {1}
            or not {a.dtype, b.dtype} <= FLOATS.keys()
        ):
            raise no_longer_whole(checkpoint, module)


@dataclass(frozen=True, slots=True, eq=False)
class Product:
    """The weight left · right of two stored factors.

    Attributes:
        left: shape (out, r).
        right: shape (r, in).
    """

    left: FloatArray
    right: FloatArray

    def rows(self, rows: slice, unit: float) -> FloatArray:
        """Rows of the product, or of its transpose where that is the tall one."""
        left, right = self.left, self.right
        long, short = (left, right) if len(left) >= right.shape[1] else (right.T, left.T)
        return np.asarray((long[rows] / unit) @ short)

    def rounding(self, half: float, least: float, unit: float) -> float:
        """Bound of the product's change when both factors are rounded.

        The sum over the ranks of the norm of a column times that of a row, one or both changed.
        """
        a, b = np.linalg.norm(self.left, axis=0), np.linalg.norm(self.right, axis=1)
        da = half * a + least * math.sqrt(len(self.left))
        db = half * b + least * math.sqrt(self.right.shape[1])
        return float(np.sum(da * b + a * db + da * db)) / unit


def factor_matrices(checkpoint: Checkpoint, module: str) -> tuple[FloatArray, FloatArray]:
    """A split module's left factor, out × r, and right one, r × in, convolutions flattened."""
    right, left, _ = factors_of(module)
    a, b = (checkpoint.array(name).astype("f8") for name in (left, right))
    if is_table(checkpoint.infos[right], checkpoint.infos[left]):
        return a, b.T
    return a.reshape(a.shape[:2]), b.reshape(len(b), -1)


def is_table(right: TensorInfo, left: TensorInfo) -> bool:
    """Whether two factors are those of a look-up table: in × r and out × r, where in > r.

    The right factor of any other layer has r rows, fewer than a row has entries.
    """
    both = len(right.shape) == len(left.shape) == 2
    return both and right.shape[0] > right.shape[1] == left.shape[1]


def choices_for(layout: Layout, layer: Layer) -> tuple[Layout, ...]:
    """The layouts among which that of a layer is chosen.

    A table that none of the layout's choices can hold becomes factors.
    """
    able = tuple(choice for choice in layout.choices if choice.supports(layer))
    return (able or (Factored(),)) if layer.view.table else layout.choices
