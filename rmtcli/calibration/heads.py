"""Attention heads with fewer units: the directions of each head that matter most.

A head's queries and keys meet in qᵀk alone, and its values are mixed over positions and then
multiplied by a part of the output projection. So the units of a head are known up to a matrix: q is
as good as Bq if k is B⁻ᵀk, and v as Bv if its columns of the projection are multiplied by B⁻¹. That
matrix is chosen so that the first directions matter most, and the others are left out.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import scipy
from numpy.typing import NDArray

from rmtcli.arrays import FloatArray
from rmtcli.calibration.measure import GRADIENT_FLOOR, second_of
from rmtcli.calibration.moments import Moments
from rmtcli.calibration.narrow import Reader, measure_of, ridged


@dataclass(frozen=True, slots=True, eq=False)
class HeadNarrowing:
    """The best directions of each attention head at every number of units.

    Of a pair of queries and keys, the writers are both layers and there are no readers; of a pair
    of values and output projection, the first is the writer and the second the reader.

    Attributes:
        encode: shape (heads, units, units): the rows give a head's directions, the most important
            first.
        decode: shape (heads, units, units): their inverses.
        losses: shape (units + 1,), descending: the loss at each number of units, on the scale of
            :class:`~rmtcli.calibration.MetricDecomposition`. For values, it includes the ridge's
            part, so the exact loss is not larger.
        exact: the exact losses of queries, which need not descend; None for values.
        weights: of the readers, shapes (out, heads · units).
        moments: of the readers.
        bias: whether each reader has a bias, which takes the mean of what is dropped.
        gradients: whether errors are measured by the moments of the output gradients.
    """

    encode: FloatArray
    decode: FloatArray
    losses: FloatArray
    exact: FloatArray | None = None
    weights: Sequence[NDArray[np.floating]] = ()
    moments: Sequence[Moments] = ()
    bias: bool = False
    gradients: bool = True

    def rows(self, writer: int, width: int, matrix: NDArray[np.floating]) -> FloatArray:
        """A writer's matrix, shape (heads · units, …), for this number of units per head."""
        maps = self._maps(writer, width)
        parts = matrix.reshape(len(maps), maps.shape[2], -1)
        return np.asarray((maps @ parts).reshape(-1, *matrix.shape[1:]))

    def outputs(self, writer: int, width: int, gradient: FloatArray) -> FloatArray:
        """The moment of a writer's output gradients, for this number of units per head."""
        back = scipy.linalg.block_diag(*self._maps(1 - writer, width))
        return np.asarray(back @ gradient @ back.T)

    def inputs(self, width: int, moments: Moments) -> Moments:
        """The moments of what the readers read, for this number of units per head."""
        maps = self._whole(width)
        return replace(moments, mean=maps @ moments.mean, second=maps @ moments.second @ maps.T)

    def readers(self, width: int) -> list[Reader]:
        """The readers, fitted to give the dense layers' outputs.

        With T the directions and C the moment of all units, W' = W C Tᵀ (T C Tᵀ)⁻¹ (least squares).
        """
        return [
            Reader(new, self._shift(weight, own, new, width) if self.bias else None)
            for weight, own, new in zip(self.weights, self.moments, self._fits(width), strict=True)
        ]

    def loss(self, width: int) -> float:
        """The exact expected loss: of the readers' outputs, or of the queries."""
        if self.exact is not None:
            return float(self.exact[width])
        second, maps = second_of(self.moments[0], self.bias), self._whole(width)
        total = 0.0
        for weight, own, new in zip(self.weights, self.moments, self._fits(width), strict=True):
            missed = weight.astype(np.float64) - new @ maps
            moved = measure_of([missed], [own], gradients=self.gradients)
            total += float(np.sum(moved * second))
        return max(total, 0.0)

    def _maps(self, writer: int, width: int) -> FloatArray:
        """Shape (heads, width, units): what each head of a writer is multiplied by."""
        if writer == 0:
            return self.encode[:, :width]
        return np.asarray(self.decode[:, :, :width].swapaxes(1, 2))

    def _whole(self, width: int) -> FloatArray:
        return np.asarray(scipy.linalg.block_diag(*self._maps(0, width)))

    def _fits(self, width: int) -> list[FloatArray]:
        """The readers' weights."""
        maps = self._whole(width)
        read = maps @ ridged(second_of(self.moments[0], self.bias))
        new = np.linalg.solve(read @ maps.T, read @ np.concatenate(self.weights).T)
        return np.split(new.T, np.cumsum([len(weight) for weight in self.weights])[:-1])

    def _shift(
        self, weight: NDArray[np.floating], moments: Moments, new: FloatArray, width: int
    ) -> FloatArray:
        return np.asarray(weight @ moments.mean - new @ (self._whole(width) @ moments.mean))


def narrow_values(
    values: NDArray[np.floating],
    projection: NDArray[np.floating],
    moments: Moments,
    heads: int,
    *,
    bias: bool,
    gradients: bool,
) -> HeadNarrowing:
    """The best directions of each head's values, with a projection refitted to read only them.

    For each head, with C_h the moment of its mixed values and M_h = W_hᵀ G W_h, they are the first
    left singular vectors of M_h^½ C_h^½. The projection is fitted to the directions of all heads
    together. With L the Cholesky factor of their moment, first directions first, what leaving out
    all directions from j on costs is Σ_{i≥j} (Lᵀ M L)_ii.

    Args:
        values: weight of the values, shape (heads · units, in).
        projection: shape (out, heads · units).
        moments: of the projection.
        heads: number of heads.
        bias: whether the projection has a bias.
        gradients: whether to use the moment of its output gradients.

    Raises:
        ValueError: gradients are to be used and were not collected.
    """
    second = ridged(second_of(moments, bias))
    measure = measure_of([projection], [moments], gradients=gradients)
    encode, decode = _directions(measure, second, heads)
    # New values are as large as the old ones, so that they fit into the type.
    size = float(np.linalg.norm(values.astype(np.float64), axis=1).mean())
    encode, decode = _scaled(encode, decode, size / _norms(encode, values))
    order = _by_direction(heads, encode.shape[1])
    inner, outer = (
        _by_order(encode, second, order),
        _by_order(decode.swapaxes(1, 2), measure, order),
    )
    lower = np.linalg.cholesky(inner)
    costs = np.einsum("ij,ij->j", lower, outer @ lower)
    losses = _cumulative(costs, heads)
    return HeadNarrowing(encode, decode, losses, None, [projection], [moments], bias, gradients)


def narrow_queries(
    queries: NDArray[np.floating],
    keys: NDArray[np.floating],
    moments: tuple[Moments, Moments],
    heads: int,
    *,
    gradients: bool,
) -> HeadNarrowing:
    """The best directions of each head's queries, and the keys that go with them.

    With fewer directions, a head's queries q are seen by all keys as Aq, with A of lower rank. In
    the metric M of the queries' output gradients, which know the keys, or else in that of the keys'
    second moment, this costs tr(M (1−A) C (1−A)ᵀ), with C the queries' second moment.

    Args:
        queries: weight of the queries, shape (heads · units, in).
        keys: weight of the keys.
        moments: of both layers.
        heads: number of heads.
        gradients: whether to use the moment of the queries' output gradients.

    Raises:
        ValueError: gradients are to be used and were not collected.
    """
    w, other = queries.astype(np.float64), keys.astype(np.float64)
    second, units = w @ moments[0].second @ w.T, len(w) // heads
    if gradients:
        measure = measure_of([np.eye(len(w))], moments[:1], gradients=True)
    else:
        ones = np.kron(np.eye(heads), np.ones((units, units)))  # heads do not see others' keys
        measure = moments[0].uses * ones * (other @ moments[1].second @ other.T)
    encode, decode = _directions(measure, ridged(second), heads)
    # Queries and keys are equally large in each direction, so that both fit into the type.
    sizes = _norms(encode, queries), _norms(decode.swapaxes(1, 2), keys)
    encode, decode = _scaled(encode, decode, np.sqrt(sizes[1] / sizes[0]))
    order = _by_direction(heads, units)
    costs = _by_order(encode, second, order) * _by_order(decode.swapaxes(1, 2), measure, order)
    left = np.cumsum(np.cumsum(costs[::-1, ::-1], 0), 1).diagonal()[::-1]
    exact = np.maximum(np.append(left[::heads], 0.0), 0.0)
    return HeadNarrowing(encode, decode, np.maximum.accumulate(exact[::-1])[::-1], exact)


def _directions(
    measure: FloatArray, second: FloatArray, heads: int
) -> tuple[FloatArray, FloatArray]:
    """For each head, M^-½ U and its inverse, with U the left singular vectors of M^½ C^½."""
    encode, decode = [], []
    for part in np.split(np.arange(len(second)), heads):
        own = np.ix_(part, part)
        values, vectors = np.linalg.eigh(measure[own])
        least = max(GRADIENT_FLOOR * float(values[-1]), np.finfo(np.float64).tiny)
        root = np.sqrt(np.maximum(values, least))
        half = root[:, None] * vectors.T
        _, left = np.linalg.eigh(half @ second[own] @ half.T)
        left = left[:, ::-1]
        encode.append(left.T @ half)
        decode.append(vectors @ (left / root[:, None]))
    return np.array(encode), np.array(decode)


def _norms(maps: FloatArray, weight: NDArray[np.floating]) -> FloatArray:
    """Shape (heads, units): norms of a weight's rows, multiplied by a head's maps."""
    parts = weight.astype(np.float64).reshape(len(maps), -1, weight.shape[1])
    norms = np.linalg.norm(maps @ parts, axis=2)
    return np.asarray(np.maximum(norms, np.finfo(np.float64).tiny))


def _scaled(
    encode: FloatArray, decode: FloatArray, scale: FloatArray
) -> tuple[FloatArray, FloatArray]:
    return encode * scale[:, :, None], decode / scale[:, None, :]


def _by_direction(heads: int, units: int) -> NDArray[np.int64]:
    """The numbers of all heads' first directions, then those of all second ones, and so on."""
    return np.arange(heads * units).reshape(heads, units).T.reshape(-1)


def _by_order(maps: FloatArray, moment: FloatArray, order: NDArray[np.int64]) -> FloatArray:
    """A moment of all units as one of directions, in an order."""
    whole = scipy.linalg.block_diag(*maps)
    return np.asarray((whole @ moment @ whole.T)[np.ix_(order, order)])


def _cumulative(costs: FloatArray, heads: int) -> FloatArray:
    """Losses of leaving out the last directions of all heads, for 0, 1, … that stay."""
    each = np.maximum(costs, 0.0).reshape(-1, heads).sum(1)
    return np.append(np.cumsum(each[::-1])[::-1], 0.0)
