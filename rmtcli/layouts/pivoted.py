"""Some rows of the weight, and the others as combinations of these: factors without waste."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

import numpy as np
from numpy.typing import NDArray

from rmtcli.arrays import FloatArray
from rmtcli.checkpoint import Checkpoint
from rmtcli.checkpoint.dtypes import FLOATS
from rmtcli.checkpoint.names import member, pivots_of, unit_of
from rmtcli.layers import Layer
from rmtcli.layouts.base import LAYOUTS, Layout, Parts, no_longer_whole, own_shape
from rmtcli.spectra import Factors, pivots

if TYPE_CHECKING:
    from torch import nn


@LAYOUTS.register("pivoted")
@dataclass(frozen=True, slots=True)
class Pivoted(Layout):
    """Pivot rows of the approximated weight, and the coefficients of all its other rows in these.

    A weight becomes ``….pivot.weight`` (rank × in), ``….rest.weight`` (out − rank × rank) and
    ``….order`` (out, whole numbers): output i is entry ``order[i]`` of the outputs of the pivot
    rows followed by those of the rest. Its bias keeps its name. This takes r(out + in − r) values,
    fewer than the weight at every rank below full rank.

    Siblings share the pivot rows, which are chosen among the outputs of all of them; a sibling's
    order points to its own pivot rows.
    """

    splits: ClassVar[bool] = True
    shared_parts: ClassVar[int] = 1
    shares: ClassVar[str] = "the pivot rows"
    index_bytes: ClassVar[int] = 4
    action: ClassVar[str] = "pivoted"

    def supports(self, layer: Layer) -> bool:
        """Whether a module of its own multiplies by the weight; a table is looked up."""
        return layer.view.splits and not layer.view.table

    def largest_rank(self, outputs: int, inputs: int) -> int:
        """Any rank below full rank takes fewer values than the weight."""
        return min(outputs, inputs) - 1

    def values(self, outputs: int, inputs: int, rank: int, *, shares: bool = False) -> int:
        """r(out + in − r), or r·out of a sibling.

        The sum over siblings is exact: each of all pivot rows is a row of one of them.
        """
        return rank * (outputs if shares else outputs + inputs - rank)

    def matrices(self, outputs: int, inputs: int, rank: int) -> tuple[tuple[int, int], ...]:
        """The pivot rows, and the coefficients of the others."""
        return (rank, inputs), (outputs - rank, rank)

    def names(self, weight: str) -> tuple[str, ...]:
        """Names of the pivot rows, the coefficients and the order of the outputs."""
        return pivots_of(unit_of(weight))

    def bias_name(self, weight: str) -> str:
        """The bias keeps its name."""
        return member(unit_of(weight), "bias")

    def compress(self, layer: Layer, factors: Factors, shape: tuple[int, ...]) -> Parts:
        """The pivot rows, the coefficients of the others, and the order of the outputs."""
        return self.compress_siblings([layer], [factors], [shape])[0]

    def compress_siblings(
        self,
        layers: Sequence[Layer],
        factors: Sequence[Factors],
        shapes: Sequence[tuple[int, ...]],
    ) -> list[Parts]:
        """The tensors of siblings, with pivot rows chosen among the outputs of all of them."""
        stacked = pivots(np.concatenate([f.left for f in factors]), factors[0].right)
        starts = np.cumsum([0, *(len(f.left) for f in factors)])
        results: list[Parts] = []
        for layer, start, end in zip(layers, starts[:-1], starts[1:], strict=True):
            own = (stacked.rows >= start) & (stacked.rows < end)
            order = _order(stacked.rows[own] - start, np.flatnonzero(own), end - start, len(own))
            rest = np.delete(stacked.coefficients[start:end], stacked.rows[own] - start, axis=0)
            left, right = layer.view.factors(rest, stacked.core)
            names = self.names(layer.tensor)
            results.append(dict(zip(names, (right, left, order), strict=True)))
        return results

    def decompress(self, checkpoint: Checkpoint, module: str) -> FloatArray:
        """All rows of the weight: a matrix, or a convolution's kernels."""
        core, rest, order = _stored(checkpoint, module)
        kernel = checkpoint.infos[pivots_of(module)[0]].shape[1:]
        rows = np.concatenate([core, rest @ core])[order].reshape(len(order), *kernel)
        transposed = module.rpartition(".")[2] in checkpoint.about.transposed
        return rows.T if transposed else rows

    def reconstruct(self, checkpoint: Checkpoint, layer: Layer) -> Combined:
        """The rows of the weight, never held whole."""
        return Combined(*_stored(checkpoint, layer.module))

    def split(self, module: nn.Module, checkpoint: Checkpoint, name: str) -> nn.Module | None:
        """A module of the pivot rows and the rest: linear maps, or convolutions."""
        from rmtcli.layouts.pivoted_module import pivoted_module  # needs torch

        core, rest, order = (checkpoint.infos[part].shape for part in pivots_of(name))
        bias = member(name, "bias") in checkpoint.infos
        shape = own_shape(checkpoint, order[0], core[1])
        return pivoted_module(module, core[0], rest[0], bias=bias, shape=shape)

    def example(self, layer: nn.Linear, rank: int) -> nn.Module:
        """Pivot rows, and the others from these."""
        from rmtcli.layouts.pivoted_module import PivotedModule, pivoted_module  # needs torch

        made = pivoted_module(layer, rank, layer.out_features - rank, bias=layer.bias is not None)
        assert isinstance(made, PivotedModule)
        return made

    def check(self, checkpoint: Checkpoint, module: str) -> None:
        """Make sure that a checkpoint holds the pivot rows, the rest and the order of a module."""
        core, rest, order = (checkpoint.infos.get(name) for name in pivots_of(module))
        if (
            core is None
            or rest is None
            or order is None
            or not 2 <= len(core.shape) == len(rest.shape)
            or core.shape[0] != rest.shape[1]
            or set(rest.shape[2:]) > {1}
            or len(order.shape) != 1
            or order.dtype != "I32"
            or not {core.dtype, rest.dtype} <= FLOATS.keys()
            or not _covers(_positions(checkpoint, module), core.shape[0], rest.shape[0])
        ):
            raise no_longer_whole(checkpoint, module)


@dataclass(frozen=True, slots=True, eq=False)
class Combined:
    """A weight as pivot rows and combinations of them, as a file stores them.

    Attributes:
        core: shape (r, in), the pivot rows.
        rest: shape (out − r, r), the coefficients of the other rows.
        order: shape (out,), the position of each row among the pivot rows followed by the others.
    """

    core: FloatArray
    rest: FloatArray
    order: NDArray[np.int64]

    def rows(self, rows: slice, unit: float) -> FloatArray:
        """Rows of the weight, or of its transpose where that is the tall one."""
        coefficients, core = self._coefficients / unit, self.core
        if len(self.order) >= core.shape[1]:
            return coefficients[rows] @ core
        return core.T[rows] @ coefficients.T

    @property
    def _coefficients(self) -> FloatArray:
        return np.concatenate([np.eye(len(self.core)), self.rest])[self.order]

    def rounding(self, half: float, least: float, unit: float) -> float:
        """Bound of the weight's change when pivot rows and coefficients are rounded.

        The sum over the pivot rows of the norm of a column of coefficients times that of the row,
        one or both changed; ones and zeros are not rounded.
        """
        own = np.bincount(self.order[self.order < len(self.core)], minlength=len(self.core))
        a, b = np.linalg.norm(self.rest, axis=0), np.linalg.norm(self.core, axis=1)
        da = half * a + least * math.sqrt(len(self.rest))
        db = half * b + least * math.sqrt(self.core.shape[1])
        return float(np.sum(da * b + np.hypot(a, own) * db + da * db)) / unit


def _order(
    rows: NDArray[np.int64], cores: NDArray[np.int64], outputs: int, rank: int
) -> NDArray[np.int32]:
    """Where each output of a layer is among the outputs of pivot rows and of the rest.

    Args:
        rows: the layer's outputs that are pivot rows.
        cores: the numbers of these pivot rows.
        outputs: number of its outputs.
        rank: number of pivot rows.
    """
    order = np.empty(outputs, np.int32)
    order[rows] = cores
    others = np.delete(np.arange(outputs), rows)
    order[others] = rank + np.arange(len(others))
    return order


def _covers(order: NDArray[np.int64], core: int, rest: int) -> bool:
    """Whether an order names each of the rest once, and pivot rows at most once."""
    counts = np.bincount(order, minlength=core + rest) if len(order) and order.min() >= 0 else order
    return (
        len(order) >= rest
        and len(counts) == core + rest
        and bool((counts[core:] == 1).all())
        and bool((counts[:core] <= 1).all())
    )


def _stored(
    checkpoint: Checkpoint, module: str
) -> tuple[FloatArray, FloatArray, NDArray[np.int64]]:
    """A module's pivot rows, r × in, coefficients and order; convolutions flattened."""
    core, rest = (checkpoint.array(name).astype("f8") for name in pivots_of(module)[:2])
    return core.reshape(len(core), -1), rest.reshape(rest.shape[:2]), _positions(checkpoint, module)


def _positions(checkpoint: Checkpoint, module: str) -> NDArray[np.int64]:
    """The order of a module's outputs."""
    return checkpoint.array(pivots_of(module)[2]).astype(np.int64)
