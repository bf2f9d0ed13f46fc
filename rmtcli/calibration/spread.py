"""How many independent samples a moment is worth, from the spread between batches."""

from __future__ import annotations

import numpy as np

from rmtcli.arrays import FloatArray


class Spread:
    """Sums over batches, which are independent of each other, whatever is dependent within them.

    Two matrices of the moment's size are held.

    Args:
        centred: whether the moment's deviation from a mean counts, and not its size.
    """

    def __init__(self, *, centred: bool) -> None:
        self._centred = centred
        self._batches, self._rows, self._row_squares, self._squares = 0, 0, 0.0, 0.0
        self._centre: FloatArray = np.zeros(())
        self._sum: FloatArray = np.zeros(())
        self._weighted: FloatArray = np.zeros(())
        self._fixed = False

    def fix_centre(self, centre: FloatArray) -> None:
        """Count rows from a point that is known before the first batch, shape (d,) or ()."""
        self._centre, self._fixed = centre, True

    def merge(self, other: Spread) -> None:
        """Add the batches of another part of the samples, whose rows count from the same point."""
        self._batches += other._batches
        self._rows += other._rows
        self._row_squares += other._row_squares
        self._squares += other._squares
        self._sum = self._sum + other._sum
        self._weighted = self._weighted + other._weighted

    def add(self, rows: int, total: FloatArray, outer: FloatArray) -> None:
        """Add a batch of rows x with their sums Σx, shape (d,), and Σxxᵀ, shape (d, d).

        Rows count from the first batch's mean, so that the noise is not that of a large mean.
        """
        if not self._batches:
            if not self._fixed:
                self._centre = total / rows if self._centred else np.zeros_like(total)
            self._sum, self._weighted = np.zeros_like(outer), np.zeros_like(outer)
        if self._centred:
            centre = np.broadcast_to(self._centre, total.shape)
            cross = np.outer(total - rows / 2 * centre, centre)
            outer = outer - cross - cross.T
        self._batches += 1
        self._rows += rows
        self._row_squares += rows**2
        self._squares += float(np.vdot(outer, outer))
        self._sum += outer
        self._weighted += rows * outer

    @property
    def independent(self) -> float | None:
        """Number of independent Gaussian samples whose moment would have as much noise.

        The noise is E‖Ĉ − C‖² = Σ_b ‖S_b − r_b Ĉ‖²/r² · k/(k−1) for k batches with sums S_b of r_b
        rows, and that of n Gaussian samples is ((tr C)² + tr C²)/n. None with a single batch.
        """
        k = self._batches
        if k < 2:
            return None
        mean = self._sum / self._rows
        square = float(np.vdot(mean, mean))
        deviation = (
            self._squares - 2 * float(np.vdot(self._weighted, mean)) + self._row_squares * square
        )
        noise = deviation / self._rows**2 * k / (k - 1)
        trace = float(np.trace(mean)) ** 2
        if noise <= np.finfo(np.float64).eps * square:
            return None
        return (trace + max(square - noise, trace / len(mean))) / noise


def joined(shares: list[float], independent: list[float | None]) -> float | None:
    """The number for a mean of moments of the same samples, weighted by shares.

    Their errors may all point in one direction: 1/√n = Σ shareᵢ/√nᵢ.
    """
    known = [n for n in independent if n is not None]
    if len(known) < len(independent):
        return None
    return float(sum(s / n**0.5 for s, n in zip(shares, known, strict=True)) ** -2)
