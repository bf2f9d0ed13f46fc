"""The singular values and vectors of B A, without ever computing the product.

With the QR decompositions B = Q_B R_B and Aᵀ = Q_A R_A, the product is Q_B (R_B R_Aᵀ) Q_Aᵀ: its
singular values are those of the small matrix in the middle, of at most r × r. Layers of equal shape
are decomposed together, because small decompositions cost less than the calls to them.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np

from rmtcli.adapters.base import AdaptedLayer
from rmtcli.arrays import FloatArray
from rmtcli.checkpoint import encode
from rmtcli.errors import LayerError
from rmtcli.spectra import Spectrum

#: Entries of the factors that are decomposed together, in float64.
_TOGETHER = 4 * 2**20


@dataclass(frozen=True, slots=True, eq=False)
class Restricted:
    """B A on the inputs that A reads, without the layer's scale.

    Attributes:
        matrix: B A in an orthonormal basis of these inputs, out × min(r, in). Its singular values
            are those of B A.
        values: the singular values, largest first; those below rounding are 0.
    """

    matrix: FloatArray
    values: FloatArray

    @property
    def spectrum(self) -> Spectrum:
        """The spectrum of the matrix.

        An adapter has no noise outside of its r directions, so the law for a matrix of out × in
        does not apply to it: a noise of independent entries can only be that of the r columns.
        """
        n, p = max(self.matrix.shape), min(self.matrix.shape)
        return Spectrum(self.values[::-1] ** 2 / n, n, p)


@dataclass(frozen=True, slots=True, eq=False)
class Product:
    """B A as left · diag(values) · right, without the layer's scale.

    Attributes:
        left: orthonormal columns, out × k.
        values: the k singular values, largest first.
        right: orthonormal rows, k × in.
    """

    left: FloatArray
    values: FloatArray
    right: FloatArray


def restricted(layers: Sequence[AdaptedLayer]) -> Iterator[tuple[int, Restricted]]:
    """The restriction of every layer, with its index; layers of equal shape follow each other.

    Raises:
        CheckpointError: a factor has values that are not finite.
    """
    for indices, left, right in _stacks(layers):
        part = _triangle(right)
        matrices = left @ part.transpose(0, 2, 1)
        values = np.linalg.svd(_triangle(matrices), compute_uv=False)
        floor = max(part.shape[1:]) * np.finfo(np.float64).eps * values[:, :1]
        values = np.where(values > floor, values, 0.0)
        yield from zip(indices, map(Restricted, matrices, values), strict=True)


def products(layers: Sequence[AdaptedLayer]) -> Iterator[tuple[int, Product]]:
    """The decomposition of every layer, with its index; layers of equal shape follow each other.

    Raises:
        CheckpointError: a factor has values that are not finite.
    """
    for indices, left, right in _stacks(layers):
        left_basis, left_part = np.linalg.qr(left)
        right_basis, right_part = np.linalg.qr(right)
        u, values, vt = np.linalg.svd(left_part @ right_part.transpose(0, 2, 1), False)
        bases = left_basis @ u, vt @ right_basis.transpose(0, 2, 1)
        yield from zip(indices, map(Product, bases[0], values, bases[1]), strict=True)


def _triangle(matrices: FloatArray) -> FloatArray:
    """R of the QR decomposition of each matrix in a stack."""
    triangle: FloatArray = np.asarray(np.linalg.qr(matrices, mode="r"))
    return triangle


def _stacks(
    layers: Sequence[AdaptedLayer],
) -> Iterator[tuple[list[int], FloatArray, FloatArray]]:
    """Layers of equal shape together: their indices, and stacks of B and of Aᵀ."""
    alike: dict[tuple[int, int, int], list[int]] = defaultdict(list)
    for index, layer in enumerate(layers):
        alike[(*layer.shape, layer.rank)].append(index)
    for (out, inputs, rank), indices in alike.items():
        step = max(1, _TOGETHER // (rank * (out + inputs)))
        for start in range(0, len(indices), step):
            chunk = indices[start : start + step]
            pairs = [layers[i].factors() for i in chunk]
            left, right = (np.stack(side) for side in zip(*pairs, strict=True))
            yield chunk, left, right.transpose(0, 2, 1)


def truncated(layer: AdaptedLayer, product: Product, rank: int) -> AdaptedLayer:
    """The layer with the best factors of a smaller rank, and the same scale.

    Both factors get the root of each singular value, so that neither overflows in half precision.

    Args:
        layer: the layer.
        product: its decomposition.
        rank: the new rank, at least 1.

    Raises:
        LayerError: a value exceeds the type of the factors.
    """
    root = np.sqrt(product.values[:rank])
    left, right = product.left[:, :rank] * root, root[:, None] * product.right[:rank]
    shapes = (len(left), rank, *layer.left.shape[2:]), (rank, *layer.right.shape[1:])
    try:
        return replace(
            layer,
            left=encode(left.reshape(shapes[0]), layer.left.dtype),
            right=encode(right.reshape(shapes[1]), layer.right.dtype),
            alpha=layer.scale * rank if layer.rslora else layer.alpha * rank / layer.rank,
            rslora=False,
        )
    except OverflowError as error:
        raise LayerError(f"'{layer.module}': {error}") from None
