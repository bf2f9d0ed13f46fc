"""Noise variances of rows and columns, and tails of single entries."""

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
    """Noise variances aᵢ bⱼ of the entries, estimated from one matrix.

    Attributes:
        rows: shape (n,): factors aᵢ along the long side, with mean 1.
        columns: shape (p,): factors bⱼ along the short side, with mean 1.
        spread: standard deviation of the log variances along the side where it is larger, without
            the part that estimation adds.
    """

    rows: FloatArray
    columns: FloatArray
    spread: float


def dyson_variances(weight: Weight, spectrum: Spectrum) -> Variances:
    """Estimate row and column variances from the resolvent (Landa and Kluger, 2025, algorithm 1).

    With η the median singular value, g = η diag((WWᵀ + η²)⁻¹) solves the Dyson equation of the
    noise, whatever low-rank signal is added to it, and 1/g − η is proportional to the variances.
    The logarithms of the estimates scatter by √(2/p) and √(2/n), which is subtracted.

    Args:
        weight: shape (out, in).
        spectrum: the spectrum of ``weight``. The result is cached for as long as this object
            exists, because an estimator, its verdict and the next estimator all ask for it.
    """
    if spectrum not in _CACHE:
        _CACHE[spectrum] = _dyson_variances(weight, spectrum)
    return _CACHE[spectrum]


_CACHE: WeakKeyDictionary[Spectrum, Variances] = WeakKeyDictionary()


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
    """Return the excess kurtosis of the entries: 0 for Gaussian noise, −1.2 for uniform."""
    return _kurtosis(block for _, block in row_blocks(weight, max_abs(weight)))


def heavy_tailed(weight: Weight, spectrum: Spectrum, spikes: int) -> bool:
    """Whether single entries stand out that neither signal nor unequal variances explain.

    A weight with light tails is decided at once. Otherwise the spikes are removed and the row and
    column variances are divided out before the kurtosis is taken.

    Args:
        weight: shape (out, in).
        spectrum: the spectrum of ``weight``.
        spikes: number of eigenvalues that count as signal.
    """
    if excess_kurtosis(weight) <= HEAVY:
        return False
    variances = dyson_variances(weight, spectrum)
    removed = spikes if spikes < spectrum.p else 0
    basis = leading_vectors(weight, spectrum, removed)
    long, short = np.sqrt(variances.rows), np.sqrt(variances.columns)

    def noise() -> Iterator[FloatArray]:
        for rows, block in row_blocks(weight, max_abs(weight)):
            block -= (block @ basis) @ basis.T
            block /= long[rows, None]
            block /= short
            yield block

    return _kurtosis(noise()) > HEAVY


#: Entries with a larger excess kurtosis count as heavy-tailed. Student's t has it with 5 degrees of
#: freedom, the fewest with which single entries create no spikes of their own.
HEAVY = 6.0
#: Rows or columns whose log variances have a larger standard deviation count as different in noise.
UNEQUAL = 0.3


def _kurtosis(blocks: Iterable[FloatArray]) -> float:
    """Return the excess kurtosis of all entries together; the blocks are overwritten."""
    count, second, fourth = 0, 0.0, 0.0
    for block in blocks:
        squares = np.square(block, out=block).reshape(-1)
        count += len(squares)
        second += float(squares.sum())
        fourth += float(squares @ squares)
    return count * fourth / second**2 - 3 if second else 0.0


def _shrunk(variances: FloatArray, noise: float) -> tuple[FloatArray, float]:
    """Remove the estimation noise from variances.

    Args:
        variances: shape (m,), the estimates.
        noise: standard deviation of the logarithm of one estimate.

    Returns:
        The variances, scaled to mean 1, and the standard deviation of their logarithms.
    """
    largest = float(variances.max())
    if largest <= 0:
        return np.ones_like(variances), 0.0
    logs = np.log(np.maximum(variances, _SMALLEST * largest))
    observed = float(logs.std())
    spread = math.sqrt(max(0.0, observed**2 - noise**2))
    logs = (logs - logs.mean()) * (spread / observed if observed else 0.0)
    shrunk = np.exp(logs)
    return np.asarray(shrunk / shrunk.mean()), spread


#: Estimated variances are raised to at least this share of the largest one.
_SMALLEST = 1e-6
