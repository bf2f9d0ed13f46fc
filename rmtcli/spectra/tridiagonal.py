"""A symmetric matrix becomes a tridiagonal one: all its values, and as many vectors as needed."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy.linalg import eigvalsh_tridiagonal

from rmtcli.arrays import FloatArray
from rmtcli.spectra.lapack import call

#: Columns that LAPACK treats at a time; its workspace is so many vectors.
_BLOCK = 64


@dataclass(frozen=True, slots=True, eq=False)
class Tridiagonal:
    """A = Q T Qᵀ, by Householder's reflections.

    The values need T alone, O(p²), and so do a few vectors of T (Dhillon's MRRR, O(p) each); only
    these are multiplied by Q. Decompositions with all vectors take two to three times as long.

    Attributes:
        diagonal: shape (p,): of T.
        beside: shape (p − 1,): T's other entries.
        reflections: shape (p, p), Fortran order: below the diagonal, what Q is made of; the rest
            is never read.
        scales: shape (p − 1,): their factors.
    """

    diagonal: FloatArray
    beside: FloatArray
    reflections: FloatArray
    scales: FloatArray

    def values(self) -> FloatArray:
        """Shape (p,): all eigenvalues, ascending, as ``numpy.linalg.eigvalsh`` has them."""
        values = self.diagonal.copy()
        try:
            call("dsterf", len(values), values, _padded(self.beside))
        except np.linalg.LinAlgError:  # QR iteration may not converge; bisection always does
            found = eigvalsh_tridiagonal(self.diagonal, self.beside, lapack_driver="stebz")
            return np.asarray(found)
        return values

    def vectors(self, count: int) -> FloatArray:
        """Shape (p, count): the eigenvectors of the largest eigenvalues, largest first."""
        p = len(self.diagonal)
        if not 0 <= count <= p:
            raise ValueError(f"a matrix of {p} has no {count} eigenvectors")
        if count == 0:
            return np.zeros((p, 0))
        found = self._of_t(count)
        if p > 1:
            work = np.empty(_BLOCK * (count + _BLOCK))
            of_q = (self.reflections, p, self.scales)
            call("dormtr", "L", "L", "N", p, count, *of_q, found, p, work, len(work))
        return found[:, ::-1]

    def _of_t(self, count: int) -> FloatArray:
        """Shape (p, count), Fortran order: the last eigenvectors of T, ascending."""
        p = len(self.diagonal)
        found, values = np.empty((p, count), order="F"), np.empty(p)
        number, supports, relative = (np.zeros(size, np.intc) for size in (1, 2 * p, 1))
        relative[0] = 1
        work, whole = np.empty(18 * p), np.empty(10 * p, np.intc)
        try:
            call(
                *("dstemr", "V", "I", p, self.diagonal.copy(), _padded(self.beside)),
                *(0.0, 0.0, p - count + 1, p, number, values, found, p, count, supports),
                *(relative, work, len(work), whole, len(whole)),
            )
        except np.linalg.LinAlgError:  # rare, and then the slow way is sure
            dense = np.diag(self.diagonal) + np.diag(self.beside, -1)
            found = np.asfortranarray(np.linalg.eigh(dense)[1][:, p - count :])
        return found


def reduce(lower: FloatArray) -> Tridiagonal:
    """The tridiagonal form of a symmetric matrix.

    Args:
        lower: shape (p, p), Fortran order; the part above the diagonal is not read. It is
            overwritten and belongs to the result.
    """
    p = len(lower)
    diagonal, beside, scales = np.empty(p), np.empty(max(p - 1, 1)), np.empty(max(p - 1, 1))
    work = np.empty(_BLOCK * p)
    call("dsytrd", "L", p, lower, p, diagonal, beside, scales, work, len(work))
    return Tridiagonal(diagonal, beside[: p - 1], lower, scales[: p - 1])


def _padded(beside: FloatArray) -> FloatArray:
    """A copy with room for one more, which LAPACK asks for."""
    return np.append(beside, 0.0)
