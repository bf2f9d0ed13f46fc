"""The best low-rank factors of a weight matrix."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from rmtcli.arrays import FloatArray
from rmtcli.spectra.gram import Spectrum, times


@dataclass(frozen=True, slots=True, eq=False)
class Factors:
    """A rank-r approximation left · right of a weight.

    Attributes:
        left: shape (out, r).
        right: shape (r, in).
        shift: shape (out,), to be added to the layer's bias; None for no change.
    """

    left: FloatArray
    right: FloatArray
    shift: FloatArray | None = None

    @property
    def product(self) -> FloatArray:
        """The approximated weight, shape (out, in)."""
        return self.left @ self.right


def factorize(weight: NDArray[np.floating], spectrum: Spectrum, rank: int) -> Factors:
    """Return the best approximation of a given rank, split evenly into U√S and √S·Vᵀ.

    The projection of W on its leading singular vectors is the optimum (Eckart and Young, 1936),
    even where small singular values are known to few digits. Equal norms on both sides keep the
    factors of half-precision weights within range. Equivalent, up to signs, to
    ``u, s, vt = scipy.linalg.svd(weight)`` with the factors ``u[:, :r] * sqrt(s[:r])`` and
    ``sqrt(s[:r])[:, None] * vt[:r]``.

    Args:
        weight: shape (out, in).
        spectrum: the spectrum of ``weight``, with vectors.
        rank: number of singular values to keep, from 0 to p.

    Raises:
        ValueError: the spectrum has no vectors, or the rank is out of range.
    """
    if spectrum.form is None:
        raise ValueError("factors need a spectrum with vectors")
    if not 0 <= rank <= spectrum.p:
        raise ValueError(f"rank must be from 0 to {spectrum.p}, not {rank}")
    basis = spectrum.leading(rank)
    values = np.sqrt(spectrum.eigenvalues[::-1][:rank] * spectrum.n)
    root = np.sqrt(np.where(values > 0, values, 1.0))  # a zero direction has nothing to share
    other = times(weight, basis) / root
    if weight.shape[0] >= weight.shape[1]:  # the basis spans the columns, the short side
        return Factors(other, basis.T * root[:, None])
    return Factors(basis * root, other.T)
