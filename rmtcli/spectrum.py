"""A weight matrix becomes its empirical spectral density."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

FloatArray = NDArray[np.float64]

#: Rows cast to float64 at a time: bounds the copy, not the result.
_BLOCK_BYTES = 64 * 2**20


@dataclass(frozen=True, slots=True, eq=False)
class Spectrum:
    """The eigenvalues of WᵀW/n, taken on the short side of W.

    Attributes:
        eigenvalues: shape (p,), ascending, sᵢ²/n for the singular values sᵢ of W.
        n: long side of W.
        p: short side of W.
        vectors: shape (p, p) or None: column i is the singular vector of the short side that
            belongs to ``eigenvalues[i]``.
    """

    eigenvalues: FloatArray
    n: int
    p: int
    vectors: FloatArray | None = None

    @property
    def gamma(self) -> float:
        """Aspect ratio p/n, in (0, 1]."""
        return self.p / self.n

    def count_above(self, threshold: float) -> int:
        """How many eigenvalues exceed ``threshold`` (eigenvalue units)."""
        return int(np.count_nonzero(self.eigenvalues > threshold))

    def relative_error(self, rank: int) -> float:
        """‖W − W_r‖_F / ‖W‖_F after truncation to ``rank`` (Eckart and Young, 1936).

        Nothing is lost beyond p: siblings' ranks may be larger than that of one of them.
        """
        total = float(self.eigenvalues.sum())
        dropped = float(self.eigenvalues[: max(self.p - rank, 0)].sum())
        return (dropped / total) ** 0.5 if total else 0.0


def spectrum(weight: NDArray[np.floating], *, vectors: bool = False) -> Spectrum:
    """The spectrum of a real matrix, through the float64 Gram matrix of its short side.

    A Gram matrix in float64 resolves eigenvalues down to about p·eps·λ_max, far below what
    float32 weights hold; smaller ones are rounding and are returned as 0.

    Args:
        weight: shape (out, in), any real floating type.
        vectors: whether to compute the singular vectors of the short side as well.

    Raises:
        ValueError: not a matrix, an empty one, or values that are not finite.
    """
    if weight.ndim != 2 or 0 in weight.shape:
        raise ValueError(f"a spectrum needs a matrix with entries, not shape {weight.shape}")
    upright = tall(weight)
    n, p = upright.shape
    gram, scale = _gram(upright)
    if vectors:
        values, basis = np.linalg.eigh(gram)
    else:
        values, basis = np.linalg.eigvalsh(gram), None
    floor = p * np.finfo(np.float64).eps * max(values[-1], 0.0)
    values = np.where(values > floor, values, 0.0)
    return Spectrum(values * scale**2 / n, n, p, basis)


def tall(weight: NDArray[np.floating]) -> NDArray[np.floating]:
    """The matrix with its long side first, shape (n, p)."""
    return weight if weight.shape[0] >= weight.shape[1] else weight.T


def _gram(upright: NDArray[np.floating]) -> tuple[FloatArray, float]:
    """(WᵀW / scale², scale) with a power of two as scale, so that no square over- or underflows."""
    largest = float(np.max(np.abs(upright)))
    if not np.isfinite(largest):
        raise ValueError("the matrix holds values that are not finite")
    scale = 2.0 ** np.frexp(largest)[1] if largest else 1.0
    n, p = upright.shape
    rows = max(1, _BLOCK_BYTES // (8 * p))
    gram = np.zeros((p, p))
    for start in range(0, n, rows):
        block = upright[start : start + rows].astype(np.float64) / scale
        gram += block.T @ block
    return gram, scale
