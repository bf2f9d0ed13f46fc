"""A weight matrix becomes its empirical spectral density."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from rmtcli.arrays import FloatArray
from rmtcli.spectra.lapack import call
from rmtcli.spectra.tridiagonal import reduce

#: Rows cast to float64 at a time: bounds the copy, not the result.
_BLOCK_BYTES = 16 * 2**20


class Form(Protocol):
    """What eigenvectors of a Gram matrix can be made from."""

    def vectors(self, count: int) -> FloatArray:
        """Shape (p, count): those of the largest eigenvalues, largest first."""
        ...


@dataclass(frozen=True, slots=True, eq=False, weakref_slot=True)
class Spectrum:
    """The eigenvalues of WᵀW/n, taken on the short side of W.

    Attributes:
        eigenvalues: shape (p,), ascending, sᵢ²/n for the singular values sᵢ of W.
        n: long side of W.
        p: short side of W.
        form: what the singular vectors of the short side are made from, or None.
    """

    eigenvalues: FloatArray
    n: int
    p: int
    form: Form | None = None

    @property
    def gamma(self) -> float:
        """Aspect ratio p/n, in (0, 1]."""
        return self.p / self.n

    def count_above(self, threshold: float) -> int:
        """How many eigenvalues exceed ``threshold`` (eigenvalue units)."""
        return int(np.count_nonzero(self.eigenvalues > threshold))

    def singular_value(self, eigenvalue: float) -> float:
        """√(n λ): the singular value of W that belongs to an eigenvalue of WᵀW/n."""
        return math.sqrt(self.n * eigenvalue)

    def leading(self, count: int) -> FloatArray:
        """Shape (p, count): singular vectors of the short side, of the largest values first.

        Raises:
            ValueError: the spectrum is one without vectors, or has not so many.
        """
        if self.form is None:
            raise ValueError("the spectrum was made without vectors")
        return self.form.vectors(count)

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
        vectors: whether singular vectors may be asked for: 8p² bytes of memory, and no time.

    Raises:
        ValueError: not a matrix, an empty one, or values that are not finite.
    """
    if weight.ndim != 2 or 0 in weight.shape:
        raise ValueError(f"a spectrum needs a matrix with entries, not shape {weight.shape}")
    lower, scale = gram(weight)
    form = reduce(lower)
    return of_gram(form.values(), scale, weight.shape, form if vectors else None)


def of_gram(
    values: FloatArray, scale: float, shape: tuple[int, ...], form: Form | None = None
) -> Spectrum:
    """The spectrum of a weight from the eigenvalues of its Gram matrix.

    Args:
        values: shape (p,), ascending: of WᵀW / scale².
        scale: what the weight was divided by.
        shape: of the weight.
        form: what vectors are made from.
    """
    n, p = max(shape), min(shape)
    floor = p * np.finfo(np.float64).eps * max(values[-1], 0.0)
    return Spectrum(np.where(values > floor, values, 0.0) * scale**2 / n, n, p, form)


def leading_vectors(weight: NDArray[np.floating], known: Spectrum, count: int) -> FloatArray:
    """Those of the weight, from its spectrum; where that has none, decomposed once more."""
    if known.form is None and count:
        known = spectrum(weight, vectors=True)
    return known.leading(count) if count else np.zeros((known.p, 0))


def tall(weight: NDArray[np.floating]) -> NDArray[np.floating]:
    """The matrix with its long side first, shape (n, p)."""
    return weight if weight.shape[0] >= weight.shape[1] else weight.T


def gram(weight: NDArray[np.floating]) -> tuple[FloatArray, float]:
    """(WᵀW / scale², scale) of the upright matrix: the lower half, in Fortran order, and zeros.

    Raises:
        ValueError: values that are not finite.
    """
    scale, p = unit_of(weight), min(weight.shape)
    lower = np.zeros((p, p), order="F")
    for _, block in row_blocks(weight, scale):
        call("dsyrk", "L", "N", p, len(block), 1.0, block, p, 1.0, lower, p)
    return lower, scale


def unit_of(weight: NDArray[np.floating]) -> float:
    """A power of two near the largest entry; squares of what it divides do not over- or underflow.

    Raises:
        ValueError: values that are not finite.
    """
    largest = max_abs(weight)
    if not np.isfinite(largest):
        raise ValueError("the matrix holds values that are not finite")
    return float(2.0 ** np.frexp(largest)[1]) if largest else 1.0


def row_blocks(
    weight: NDArray[np.floating], unit: float = 1.0, size: int = _BLOCK_BYTES
) -> Iterator[tuple[slice, FloatArray]]:
    """The upright matrix in float64, over ``unit``, some rows of so many bytes at a time.

    Each block stands in the memory of the one before.
    """
    upright = tall(weight)
    n, p = upright.shape
    rows = min(n, max(1, size // (8 * p)))
    memory = np.empty((rows, p))
    for start in range(0, n, rows):
        part = upright[start : start + rows]
        block = memory[: len(part)]
        yield (
            slice(start, start + len(part)),
            np.divide(part, unit, out=block, dtype=np.float64),
        )


def times(weight: NDArray[np.floating], basis: FloatArray, unit: float = 1.0) -> FloatArray:
    """The upright matrix over ``unit`` times a basis of its short side, shape (n, k)."""
    product = np.empty((max(weight.shape), basis.shape[1]))
    for rows, block in row_blocks(weight, unit):
        np.matmul(block, basis, out=product[rows])
    return product


def max_abs(weight: NDArray[np.floating]) -> float:
    """The largest magnitude; not finite where an entry is not."""
    return max(abs(float(weight.max())), abs(float(weight.min())))
