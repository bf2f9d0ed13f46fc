"""Tridiagonal form of a symmetric matrix: all eigenvalues, and eigenvectors as needed."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np
import scipy

from rmtcli.arrays import FloatArray
from rmtcli.spectra.lapack import call

#: Number of columns that LAPACK treats at a time, and of vectors in its workspace.
_BLOCK = 64
#: Up to so many eigenvectors of T are computed by inverse iteration, three times as fast as MRRR.
#: Vectors of near eigenvalues are made orthogonal, which takes the square of their number.
_FEW = 128


@dataclass(frozen=True, eq=False)
class Tridiagonal:
    """A = Q T Qᵀ, by Householder reflections.

    The eigenvalues need only T and O(p²) operations. A few eigenvectors of T take O(p) operations
    each (inverse iteration, or Dhillon's MRRR), and only these are multiplied by Q. Decompositions
    with all eigenvectors take two to three times as long.

    Attributes:
        diagonal: shape (p,): diagonal of T.
        beside: shape (p − 1,): the entries of T beside the diagonal.
        reflections: shape (p, p), Fortran order: the reflection vectors of Q, below the diagonal;
            the rest is not read for values and vectors.
        scales: shape (p − 1,): scalar factors of the reflections.
        kept: shape (p,): diagonal of A, if the rest of A is above the diagonal of ``reflections``.
    """

    diagonal: FloatArray
    beside: FloatArray
    reflections: FloatArray
    scales: FloatArray
    kept: FloatArray | None = None

    def original(self) -> FloatArray | None:
        """Return A, with its lower triangle filled and zeros above, in Fortran order.

        Returns:
            None where A was not kept.
        """
        if self.kept is None:
            return None
        lower = np.zeros_like(self.reflections)
        _copy_across(self.reflections.T, lower)
        np.fill_diagonal(lower, self.kept)
        return lower

    def values(self) -> FloatArray:
        """Return all eigenvalues, ascending, shape (p,).

        Equivalent to ``numpy.linalg.eigvalsh``.
        """
        return self._values

    @cached_property
    def _values(self) -> FloatArray:
        values = self.diagonal.copy()
        try:
            call("dsterf", len(values), values, _padded(self.beside))
        except np.linalg.LinAlgError:  # QR iteration may not converge; bisection always does
            form = (self.diagonal, self.beside)
            bisected = scipy.linalg.eigvalsh_tridiagonal(*form, lapack_driver="stebz")
            return np.asarray(bisected)
        return values

    def vectors(self, count: int) -> FloatArray:
        """Return the eigenvectors of the largest eigenvalues, largest first, shape (p, count).

        Raises:
            ValueError: ``count`` is below 0 or above p.
        """
        p = len(self.diagonal)
        if not 0 <= count <= p:
            raise ValueError(f"a matrix of size {p} does not have {count} eigenvectors")
        if count == 0:
            return np.zeros((p, 0))
        vectors = self._of_t(count)
        if p > 1:
            work = np.empty(_BLOCK * (count + _BLOCK))
            of_q = (self.reflections, p, self.scales)
            call("dormtr", "L", "L", "N", p, count, *of_q, vectors, p, work, len(work))
        return vectors[:, ::-1]

    def _of_t(self, count: int) -> FloatArray:
        """Return the last eigenvectors of T, ascending, shape (p, count), in Fortran order."""
        if count <= _FEW:
            try:
                return self._by_inverse_iteration(count)
            except np.linalg.LinAlgError:  # a vector did not converge
                pass
        p = len(self.diagonal)
        vectors, values = np.empty((p, count), order="F"), np.empty(p)
        number, supports, relative = (np.zeros(size, np.intc) for size in (1, 2 * p, 1))
        relative[0] = 1
        work, whole = np.empty(18 * p), np.empty(10 * p, np.intc)
        try:
            call(
                *("dstemr", "V", "I", p, self.diagonal.copy(), _padded(self.beside)),
                *(0.0, 0.0, p - count + 1, p, number, values, vectors, p, count, supports),
                *(relative, work, len(work), whole, len(whole)),
            )
        except np.linalg.LinAlgError:  # rare; the slow way always works
            dense = np.diag(self.diagonal) + np.diag(self.beside, -1)
            vectors = np.asfortranarray(np.linalg.eigh(dense)[1][:, p - count :])
        return vectors

    def _by_inverse_iteration(self, count: int) -> FloatArray:
        """Return the last eigenvectors of T, ascending, shape (p, count), in Fortran order.

        Raises:
            LinAlgError: one of them did not converge.
        """
        p = len(self.diagonal)
        vectors, values = np.empty((p, count), order="F"), np.zeros(p)
        values[:count] = self._values[p - count :]
        # T counts as one block that ends at row p, even where an entry beside the diagonal is 0.
        block, ends = np.ones(p, np.intc), np.full(p, p, np.intc)
        work, whole, failed = np.empty(5 * p), np.empty(p, np.intc), np.empty(count, np.intc)
        call(
            *("dstein", p, self.diagonal, _padded(self.beside), count, values, block, ends),
            *(vectors, p, work, whole, failed),
        )
        if not np.isfinite(vectors).all():  # T is 0, or its squares are
            raise np.linalg.LinAlgError("inverse iteration failed")
        return vectors


def reduce(lower: FloatArray, *, keep: bool = False) -> Tridiagonal:
    """Return the tridiagonal form of a symmetric matrix.

    Args:
        lower: shape (p, p), Fortran order; the part above the diagonal is not read. The array is
            overwritten and becomes part of the result.
        keep: whether the matrix is kept, above the diagonal of the same array.
    """
    p = len(lower)
    kept = lower.diagonal().copy() if keep else None
    if keep:
        _copy_across(lower, lower.T)
    diagonal, beside, scales = np.empty(p), np.empty(max(p - 1, 1)), np.empty(max(p - 1, 1))
    work = np.empty(_BLOCK * p)
    call("dsytrd", "L", p, lower, p, diagonal, beside, scales, work, len(work))
    return Tridiagonal(diagonal, beside[: p - 1], lower, scales[: p - 1], kept)


def _copy_across(source: FloatArray, target: FloatArray) -> None:
    """Copy the part below the diagonal; one may be a view of the other, transposed."""
    p = len(source)
    for start in range(0, p, _BLOCK):
        stop = min(start + _BLOCK, p)
        target[stop:, start:stop] = source[stop:, start:stop]
        for j in range(start, stop - 1):
            target[j + 1 : stop, j] = source[j + 1 : stop, j]


def _padded(beside: FloatArray) -> FloatArray:
    """Return a copy with one more entry, which LAPACK requires."""
    return np.append(beside, 0.0)
