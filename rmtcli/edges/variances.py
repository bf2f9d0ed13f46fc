"""Which rows, columns and single entries carry more noise than others."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from weakref import WeakKeyDictionary

import numpy as np

from rmtcli.arrays import FloatArray
from rmtcli.edges.base import Weight
from rmtcli.spectra import Spectrum, leading_vectors, max_abs, row_blocks
from rmtcli.spectra.gram import gram
from rmtcli.spectra.lapack import call


@dataclass(frozen=True, slots=True, eq=False)
class Variances:
    """Noise variances aᵢ bⱼ of the entries, as estimated from one matrix.

    Attributes:
        rows: shape (n,): factors of the long side, with mean 1.
        columns: shape (p,): factors of the short side, with mean 1.
        spread: the larger of the two deviations of log variance, less what estimation adds.
    """

    rows: FloatArray
    columns: FloatArray
    spread: float


def dyson_variances(weight: Weight, spectrum: Spectrum) -> Variances:
    """Row and column variances from the resolvent (Landa and Kluger, 2025, algorithm 1).

    With η the median singular value, g = η diag((WWᵀ + η²)⁻¹) solves the Dyson equation of the
    noise, whatever low-rank signal is added to it, and 1/g − η is proportional to the variances.
    Estimates scatter by √(2/p) and √(2/n) in the logarithm, which is taken off.

    Args:
        weight: shape (out, in).
        spectrum: that of the weight; what was found for it is kept as long as it is there, because
            an estimator, its verdict and the next estimator all ask.
    """
    if spectrum not in _FOUND:
        _FOUND[spectrum] = _dyson_variances(weight, spectrum)
    return _FOUND[spectrum]


_FOUND: WeakKeyDictionary[Spectrum, Variances] = WeakKeyDictionary()


def _dyson_variances(weight: Weight, spectrum: Spectrum) -> Variances:
    n, p = spectrum.n, spectrum.p
    variance = n * float(np.median(spectrum.eigenvalues))
    if variance == 0:  # no noise, no variances
        return Variances(np.ones(n), np.ones(p), 0.0)
    # In units in which the median singular value is 1: L Lᵀ = WᵀW + 1.
    lower, scale = gram(weight)
    lower *= scale**2 / variance
    lower[np.diag_indices(p)] += 1
    call("dpotrf", "L", p, lower, p)
    long = np.empty(n)
    for part, block in row_blocks(weight, math.sqrt(variance)):
        call("dtrsm", "L", "L", "N", "N", p, len(block), 1.0, lower, p, block, p)
        long[part] = 1 - np.einsum("ij,ij->i", block, block)
    call("dtrtri", "L", "N", p, lower, p)
    short = np.einsum("ij,ij->j", lower, lower)  # the diagonal of (L Lᵀ)⁻¹
    rows, long_spread = _shrunk(1 / long - 1, math.sqrt(2 / p))
    columns, short_spread = _shrunk(1 / short - 1, math.sqrt(2 / n))
    return Variances(rows, columns, max(long_spread, short_spread))


def excess_kurtosis(weight: Weight) -> float:
    """Fourth cumulant of the entries: 0 for Gaussian noise, −1.2 for uniform."""
    return _kurtosis(block for _, block in row_blocks(weight, max_abs(weight)))


def heavy_tailed(weight: Weight, spectrum: Spectrum, spikes: int) -> bool:
    """Whether single entries stand out, though not by the signal or their row's or column's noise.

    Only where the weight itself has large tails are the spikes taken away and the variances
    divided out.
    """
    if excess_kurtosis(weight) <= HEAVY:
        return False
    variances = dyson_variances(weight, spectrum)
    taken = spikes if spikes < spectrum.p else 0
    basis = leading_vectors(weight, spectrum, taken)
    long, short = np.sqrt(variances.rows), np.sqrt(variances.columns)

    def noise() -> Iterator[FloatArray]:
        for rows, block in row_blocks(weight, max_abs(weight)):
            block -= (block @ basis) @ basis.T
            block /= long[rows, None]
            block /= short
            yield block

    return _kurtosis(noise()) > HEAVY


#: Excess kurtosis from which entries count as heavy-tailed: that of Student's t with 5 degrees of
#: freedom, the last with which single entries make no spikes of their own.
HEAVY = 6.0
#: Spread of log variance from which rows or columns count as differing in noise.
UNEQUAL = 0.3


def _kurtosis(blocks: Iterable[FloatArray]) -> float:
    """Of all entries together; the blocks are overwritten."""
    count, second, fourth = 0, 0.0, 0.0
    for block in blocks:
        squares = np.square(block, out=block).reshape(-1)
        count += len(squares)
        second += float(squares.sum())
        fourth += float(squares @ squares)
    return count * fourth / second**2 - 3 if second else 0.0


def _shrunk(variances: FloatArray, noise: float) -> tuple[FloatArray, float]:
    """Variances with mean 1 and the spread of their logarithm, both without estimation noise."""
    largest = float(variances.max())
    if largest <= 0:
        return np.ones_like(variances), 0.0
    logs = np.log(np.maximum(variances, _SMALLEST * largest))
    seen = float(logs.std())
    spread = math.sqrt(max(0.0, seen**2 - noise**2))
    logs = (logs - logs.mean()) * (spread / seen if seen else 0.0)
    shrunk = np.exp(logs)
    return np.asarray(shrunk / shrunk.mean()), spread


#: A variance is estimated as at least this share of the largest one.
_SMALLEST = 1e-6
