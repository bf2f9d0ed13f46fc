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
class Product:
    """B A as left · diag(values) · right, without the layer's scale.

    Attributes:
        left: orthonormal columns, out × k.
        values: the k singular values, largest first; those below rounding are 0.
        right: orthonormal rows, k × in.
        restricted: B A on the inputs that A reads, in an orthonormal basis of them: out × min(r,
            in). Its singular values are those of B A.
    """

    left: FloatArray
    values: FloatArray
    right: FloatArray
    restricted: FloatArray

    @property
    def spectrum(self) -> Spectrum:
        """The spectrum of the restricted matrix.

        An adapter has no noise outside of its r directions, so the law for a matrix of out × in
        does not apply to it: a noise of independent entries can only be that of the r columns.
        """
        n, p = max(self.restricted.shape), min(self.restricted.shape)
        return Spectrum(self.values[::-1] ** 2 / n, n, p)


def products(layers: Sequence[AdaptedLayer]) -> Iterator[tuple[int, Product]]:
    """The decomposition of every layer, with its index; layers of equal shape follow each other.

    Raises:
        CheckpointError: a factor has values that are not finite.
    """
    alike: dict[tuple[int, int, int], list[int]] = defaultdict(list)
    for index, layer in enumerate(layers):
        alike[(*layer.shape, layer.rank)].append(index)
    for (out, inputs, rank), indices in alike.items():
        step = max(1, _TOGETHER // (rank * (out + inputs)))
        for start in range(0, len(indices), step):
            chunk = indices[start : start + step]
            yield from zip(chunk, _decomposed([layers[i] for i in chunk]), strict=True)


def _decomposed(layers: Sequence[AdaptedLayer]) -> list[Product]:
    """The decompositions of layers of one shape."""
    pairs = [layer.factors() for layer in layers]
    left = np.stack([pair[0] for pair in pairs])
    right = np.stack([pair[1].T for pair in pairs])
    left_basis, left_part = np.linalg.qr(left)
    right_basis, right_part = np.linalg.qr(right)
    restricted = left @ right_part.transpose(0, 2, 1)
    inner = left_part @ right_part.transpose(0, 2, 1)
    u, values, vt = np.linalg.svd(inner, full_matrices=False)
    floor = max(inner.shape[1:]) * np.finfo(np.float64).eps * values[:, :1]
    values = np.where(values > floor, values, 0.0)
    bases = left_basis @ u, vt @ right_basis.transpose(0, 2, 1)
    return [Product(*parts) for parts in zip(bases[0], values, bases[1], restricted, strict=True)]


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
