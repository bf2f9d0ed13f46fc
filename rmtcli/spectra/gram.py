"""The spectrum of a weight matrix, by the Gram matrix of its short side."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import DTypeLike, NDArray

from rmtcli.arrays import FloatArray
from rmtcli.spectra.lapack import call
from rmtcli.spectra.tridiagonal import Tridiagonal, reduce

#: Size of the rows that are cast to float64 at a time; limits the copy, not the result.
_BLOCK_BYTES = 16 * 2**20


class Form(Protocol):
    """A reduced form of a Gram matrix, from which eigenvectors can be computed."""

    def vectors(self, count: int) -> FloatArray:
        """Return the eigenvectors of the largest eigenvalues, largest first, shape (p, count)."""
        ...


@dataclass(frozen=True, slots=True, eq=False, weakref_slot=True)
class Spectrum:
    """The eigenvalues of WᵀW/n, taken on the short side of W.

    Attributes:
        eigenvalues: shape (p,), ascending, sᵢ²/n for the singular values sᵢ of W.
        n: long side of W.
        p: short side of W.
        form: reduced Gram matrix, from which singular vectors of the short side are computed, or
            None for a spectrum without vectors.
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
        """Return the number of eigenvalues above ``threshold``, in eigenvalue units."""
        return int(np.count_nonzero(self.eigenvalues > threshold))

    def singular_value(self, eigenvalue: float) -> float:
        """√(n λ): the singular value of W that belongs to an eigenvalue of WᵀW/n."""
        return math.sqrt(self.n * eigenvalue)

    def leading(self, count: int) -> FloatArray:
        """Return singular vectors of the short side, largest values first, shape (p, count).

        Raises:
            ValueError: the spectrum was made without vectors, or has fewer than ``count``.
        """
        if self.form is None:
            raise ValueError("the spectrum was made without vectors")
        return self.form.vectors(count)

    def relative_error(self, rank: int) -> float:
        """Return ‖W − W_r‖_F / ‖W‖_F after truncation to ``rank`` (Eckart and Young, 1936).

        The error is 0 for a rank above p, which the shared rank of siblings may be.
        """
        total = float(self.eigenvalues.sum())
        dropped = float(self.eigenvalues[: max(self.p - rank, 0)].sum())
        return (dropped / total) ** 0.5 if total else 0.0


def spectrum(weight: NDArray[np.floating], *, vectors: bool = False) -> Spectrum:
    """Return the spectrum of a real matrix, by the float64 Gram matrix of its short side.

    A Gram matrix in float64 resolves eigenvalues down to about p·eps·λ_max, far below what
    float32 weights hold; smaller ones are rounding errors and are returned as 0. Equivalent to
    ``scipy.linalg.svdvals(weight)[::-1] ** 2 / max(weight.shape)``.

    Args:
        weight: shape (out, in), any real floating type.
        vectors: whether singular vectors may be asked for later; costs 8p² bytes of memory and no
            time.

    Raises:
        ValueError: ``weight`` is not a matrix, is empty, or has values that are not finite.
    """
    if weight.ndim != 2 or 0 in weight.shape:
        raise ValueError(f"a spectrum needs a matrix with entries, not shape {weight.shape}")
    lower, scale = gram(weight)
    form = reduce(lower, keep=vectors)
    return of_gram(form.values(), scale, weight.shape, form if vectors else None)


def scaled_spectrum(
    weight: NDArray[np.floating], rows: FloatArray, columns: FloatArray
) -> Spectrum:
    """Return the spectrum of the tall matrix with its rows and columns multiplied by factors.

    Args:
        weight: shape (out, in).
        rows: shape (n,): factors along the long side, near 1.
        columns: shape (p,): factors along the short side, near 1.

    Raises:
        ValueError: the weight has values that are not finite.
    """
    lower, scale = gram(weight, rows)
    lower *= columns
    lower *= columns[:, None]
    return of_gram(reduce(lower).values(), scale, weight.shape)


def of_gram(
    values: FloatArray, scale: float, shape: tuple[int, ...], form: Form | None = None
) -> Spectrum:
    """Return the spectrum of a weight from the eigenvalues of its Gram matrix.

    Args:
        values: shape (p,), ascending: eigenvalues of WᵀW / scale².
        scale: the number that the weight was divided by.
        shape: shape of the weight.
        form: reduced Gram matrix, from which vectors are computed, or None.
    """
    n, p = max(shape), min(shape)
    floor = p * np.finfo(np.float64).eps * max(values[-1], 0.0)
    return Spectrum(np.where(values > floor, values, 0.0) * scale**2 / n, n, p, form)


def leading_vectors(weight: NDArray[np.floating], known: Spectrum, count: int) -> FloatArray:
    """Return leading singular vectors of the short side, shape (p, count).

    A weight whose spectrum has no vectors is decomposed again.

    Args:
        weight: shape (out, in).
        known: the spectrum of ``weight``.
        count: number of vectors.
    """
    if known.form is None and count:
        known = spectrum(weight, vectors=True)
    return known.leading(count) if count else np.zeros((known.p, 0))


def tall(weight: NDArray[np.floating]) -> NDArray[np.floating]:
    """Return the matrix with its long side first, shape (n, p): the weight or its transpose."""
    return weight if weight.shape[0] >= weight.shape[1] else weight.T


def gram(
    weight: NDArray[np.floating], factors: FloatArray | None = None
) -> tuple[FloatArray, float]:
    """Return (WᵀW / scale², scale) of the tall matrix W.

    The Gram matrix is in Fortran order, with its lower triangle filled and zeros above.

    Args:
        weight: shape (out, in).
        factors: shape (n,), which the rows of W are multiplied by; None for 1.

    Raises:
        ValueError: the weight has values that are not finite.
    """
    scale, p = unit_of(weight), min(weight.shape)
    lower = np.zeros((p, p), order="F")
    for rows, block in row_blocks(weight, scale):
        if factors is not None:
            block *= factors[rows, None]
        call("dsyrk", "L", "N", p, len(block), 1.0, block, p, 1.0, lower, p)
    return lower, scale


def known_gram(weight: NDArray[np.floating], known: Spectrum) -> tuple[FloatArray, float]:
    """Return what :func:`gram` returns, without computing it if the spectrum's form has it.

    Args:
        weight: shape (out, in).
        known: the spectrum of ``weight``.
    """
    if isinstance(known.form, Tridiagonal) and (lower := known.form.original()) is not None:
        return lower, unit_of(weight)
    return gram(weight)


def unit_of(weight: NDArray[np.floating]) -> float:
    """Return a power of two near the largest entry.

    Squares of entries that were divided by it neither overflow nor underflow.

    Raises:
        ValueError: the weight has values that are not finite.
    """
    largest = max_abs(weight)
    if not np.isfinite(largest):
        raise ValueError("the matrix holds values that are not finite")
    return float(2.0 ** np.frexp(largest)[1]) if largest else 1.0


def row_blocks(
    weight: NDArray[np.floating], unit: float = 1.0, size: int = _BLOCK_BYTES
) -> Iterator[tuple[slice, FloatArray]]:
    """Yield ``(rows, block)`` of the tall matrix divided by ``unit``, as float64.

    All blocks share one buffer: copy a block to keep it.

    Args:
        weight: shape (out, in).
        unit: number that the entries are divided by.
        size: bytes per block, at least one row.
    """
    matrix = tall(weight)
    n, p = matrix.shape
    rows = min(n, max(1, size // (8 * p)))
    buffer = np.empty((rows, p))
    for start in range(0, n, rows):
        part = matrix[start : start + rows]
        block = buffer[: len(part)]
        yield (
            slice(start, start + len(part)),
            np.multiply(part, 1 / unit, out=block, dtype=np.float64),
        )


def times(weight: NDArray[np.floating], basis: FloatArray, unit: float = 1.0) -> FloatArray:
    """Return the tall matrix divided by ``unit`` times a basis of its short side, shape (n, k).

    Args:
        weight: shape (out, in).
        basis: shape (p, k).
        unit: number that the entries are divided by.
    """
    product = np.empty((max(weight.shape), basis.shape[1]))
    for rows, block in row_blocks(weight, unit):
        np.matmul(block, basis, out=product[rows])
    return product


def mapped(
    maps: FloatArray, weight: NDArray[np.floating], dtype: DTypeLike = np.float64
) -> NDArray[np.floating]:
    """Return ``maps @ weight``, computed in float64 from few columns of the weight at a time.

    Args:
        maps: shape (k, out).
        weight: shape (out, in).
        dtype: type of the result.
    """
    product = np.empty((len(maps), weight.shape[1]), dtype)
    columns = max(1, _BLOCK_BYTES // (8 * len(weight)))
    for start in range(0, weight.shape[1], columns):
        part = slice(start, start + columns)
        product[:, part] = maps @ weight[:, part].astype(np.float64)
    return product


def max_abs(weight: NDArray[np.floating]) -> float:
    """Return the largest magnitude of an entry; it is not finite if an entry is not."""
    return max(abs(float(weight.max())), abs(float(weight.min())))
