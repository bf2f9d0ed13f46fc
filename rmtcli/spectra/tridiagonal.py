"""Tridiagonal form of a symmetric matrix: all eigenvalues, and eigenvectors as needed."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy.linalg import eigvalsh_tridiagonal

from rmtcli.arrays import FloatArray
from rmtcli.spectra.lapack import call

#: Number of columns that LAPACK treats at a time, and of vectors in its workspace.
_BLOCK = 64


@dataclass(frozen=True, slots=True, eq=False)
class Tridiagonal:
    """A = Q T Qᵀ, by Householder reflections.

    The eigenvalues need only T and O(p²) operations. A few eigenvectors of T take O(p) operations
    each (Dhillon's MRRR), and only these are multiplied by Q. Decompositions with all eigenvectors
    take two to three times as long.

    Attributes:
        diagonal: shape (p,): diagonal of T.
        beside: shape (p − 1,): the entries of T beside the diagonal.
        reflections: shape (p, p), Fortran order: the reflection vectors of Q, below the diagonal;
            the rest is never read.
        scales: shape (p − 1,): scalar factors of the reflections.
    """

    diagonal: FloatArray
    beside: FloatArray
    reflections: FloatArray
    scales: FloatArray

    def values(self) -> FloatArray:
        """Return all eigenvalues, ascending, shape (p,).

        Equivalent to ``numpy.linalg.eigvalsh``.
        """
        values = self.diagonal.copy()
        try:
            call("dsterf", len(values), values, _padded(self.beside))
        except np.linalg.LinAlgError:  # QR iteration may not converge; bisection always does
            bisected = eigvalsh_tridiagonal(self.diagonal, self.beside, lapack_driver="stebz")
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


def reduce(lower: FloatArray) -> Tridiagonal:
    """Return the tridiagonal form of a symmetric matrix.

    Args:
        lower: shape (p, p), Fortran order; the part above the diagonal is not read. The array is
            overwritten and becomes part of the result.
    """
    p = len(lower)
    diagonal, beside, scales = np.empty(p), np.empty(max(p - 1, 1)), np.empty(max(p - 1, 1))
    work = np.empty(_BLOCK * p)
    call("dsytrd", "L", p, lower, p, diagonal, beside, scales, work, len(work))
    return Tridiagonal(diagonal, beside[: p - 1], lower, scales[: p - 1])


def _padded(beside: FloatArray) -> FloatArray:
    """Return a copy with one more entry, which LAPACK requires."""
    return np.append(beside, 0.0)
