"""How many independent samples a moment is worth, from the spread between batches."""

from __future__ import annotations

from collections.abc import Iterator
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from rmtcli.arrays import FloatArray
from rmtcli.calibration.symmetric import diagonal, half, whole

#: Rows of a moment that are in memory as float64 once more.
_ROWS = 256


class Spread:
    """Sums over batches, which are independent of each other, whatever is dependent within them.

    One half of a moment is held, because it is symmetric, and a second one if batches differ in
    their number of rows.

    Args:
        centred: whether the moment's deviation from a mean counts, and not its size.

    Attributes:
        rows: number of rows.
        total: Σx, shape (d,).
        centre: the point from which rows count, shape (d,) or (); the first batch's mean, unless
            another is set before.
    """

    def __init__(self, *, centred: bool) -> None:
        self.rows = 0
        self.total: FloatArray = np.zeros(())
        self._entries: FloatArray = np.zeros(0)
        self._centred = centred
        self._batches, self._first, self._row_squares, self._squares = 0, 0, 0.0, 0.0
        self.centre: FloatArray | None = None
        #: Σ of each batch's sum times its rows; None while all batches have as many rows.
        self._weighted: FloatArray | None = None

    def merge(self, other: Spread) -> None:
        """Add the batches of another part of the samples, whose rows count from the same point."""
        if not other._batches:
            return
        if not self._batches:
            self._first, self.total, self._entries = other._first, other.total, other._entries
            self.centre = other.centre
            self._weighted = other._weighted
        else:
            alike = self._first == other._first
            if not alike or self._weighted is not None or other._weighted is not None:
                self._weighted = self._by_rows() + other._by_rows()
            self.total += other.total
            self._entries += other._entries
        self._batches += other._batches
        self.rows += other.rows
        self._row_squares += other._row_squares
        self._squares += other._squares

    def add(self, rows: int, total: FloatArray, entries: FloatArray) -> None:
        """Add a batch of rows x with their sum Σx, shape (d,), and one half of Σxxᵀ.

        Rows count from the first batch's mean, so that the noise is not that of a large mean. The
        arrays must not be used afterwards.
        """
        if not self._batches:
            if self.centre is None:
                self.centre = total / rows if self._centred else np.zeros_like(total)
            self._first = rows
        elif rows != self._first and self._weighted is None:
            self._weighted = self._by_rows()
        for part, block, own in self._blocks(rows, total, entries):
            self._squares += _product(block, block, own)
            if self._weighted is not None:
                self._weighted[part] += rows * block
        if self._batches:
            self.total += total
            self._entries += entries
        else:
            self.total, self._entries = total, entries
        self._batches += 1
        self.rows += rows
        self._row_squares += rows**2

    @cached_property
    def outer(self) -> FloatArray:
        """Σxxᵀ, shape (d, d), in the type of the first batch's; nothing may be added afterwards."""
        _ = self.independent  # which needs the half
        entries, self._entries = self._entries, np.zeros(0)
        return whole(entries, entries.dtype)

    def _by_rows(self) -> FloatArray:
        """One half of Σ of each batch's sum times its rows."""
        if self._weighted is not None:
            return self._weighted
        weighted: FloatArray = np.empty(len(self._entries))
        for part, block, _ in self._blocks(self.rows, self.total, self._entries):
            weighted[part] = self._first * block
        return weighted

    def _blocks(
        self, rows: int, total: FloatArray, entries: FloatArray
    ) -> Iterator[tuple[slice, FloatArray, NDArray[np.int64]]]:
        """One half of Σ(x − c)(x − c)ᵀ − r c cᵀ of r rows with these sums, in parts.

        Yields:
            The part, its entries, and the offsets in it of those that are on the diagonal.
        """
        assert self.centre is not None
        centre = np.broadcast_to(self.centre, total.shape)
        shift, offsets = total - rows / 2 * centre, diagonal(len(total))
        for start in range(0, len(total), _ROWS):
            stop = min(start + _ROWS, len(total))
            part = slice(offsets[start], offsets[stop])
            block = entries[part].astype(np.float64)
            if self._centred:
                change = np.outer(shift[start:stop], centre[start:])
                change += np.outer(centre[start:stop], shift[start:])
                block -= half(change)
            yield part, block, offsets[start:stop] - offsets[start]

    @cached_property
    def independent(self) -> float | None:
        """Number of independent Gaussian samples whose moment would have as much noise.

        The noise is E‖Ĉ − C‖² = Σ_b ‖S_b − r_b Ĉ‖²/r² · k/(k−1) for k batches with sums S_b of r_b
        rows, and that of n Gaussian samples is ((tr C)² + tr C²)/n. None with a single batch.
        """
        k = self._batches
        if k < 2:
            return None
        square, trace, weighted = 0.0, 0.0, 0.0
        for part, block, own in self._blocks(self.rows, self.total, self._entries):
            block /= self.rows
            square += _product(block, block, own)
            trace += float(block[own].sum())
            if self._weighted is not None:
                weighted += _product(self._weighted[part], block, own)
        if self._weighted is None:
            weighted = self._first * self.rows * square
        deviation = self._squares - 2 * weighted + self._row_squares * square
        noise = deviation / self.rows**2 * k / (k - 1)
        if noise <= np.finfo(np.float64).eps * square:
            return None
        return (trace**2 + max(square - noise, trace**2 / len(self.total))) / noise


def _product(a: FloatArray, b: FloatArray, own: NDArray[np.int64]) -> float:
    """The sum of the products of all entries of two symmetric matrices, given their halves.

    Args:
        a: a part of one half.
        b: the same part of the other.
        own: the offsets of the diagonal.
    """
    return 2 * float(np.vdot(a, b)) - float(np.vdot(a[own], b[own]))


def joined(shares: list[float], independent: list[float | None]) -> float | None:
    """The number for a mean of moments of the same samples, weighted by shares.

    Their errors may all point in one direction: 1/√n = Σ shareᵢ/√nᵢ.
    """
    known = [n for n in independent if n is not None]
    if len(known) < len(independent):
        return None
    return float(sum(s / n**0.5 for s, n in zip(shares, known, strict=True)) ** -2)
