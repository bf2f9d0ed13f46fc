"""Noise variances of rows and columns, and tails of single entries."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from functools import wraps
from typing import TypeVar
from weakref import WeakKeyDictionary

import numpy as np

from rmtcli.arrays import FloatArray
from rmtcli.edges.base import Weight
from rmtcli.spectra import Spectrum, leading_vectors, row_blocks
from rmtcli.spectra.gram import known_gram
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


R = TypeVar("R")


def _once(function: Callable[[Weight, Spectrum], R]) -> Callable[[Weight, Spectrum], R]:
    """Keep a function's result for as long as the spectrum exists.

    An estimator, its verdict and the next estimator all ask for the same statistics of a weight.
    """
    known: WeakKeyDictionary[Spectrum, R] = WeakKeyDictionary()

    @wraps(function)
    def cached(weight: Weight, spectrum: Spectrum) -> R:
        if spectrum not in known:
            known[spectrum] = function(weight, spectrum)
        return known[spectrum]

    return cached


@_once
def dyson_variances(weight: Weight, spectrum: Spectrum) -> Variances:
    """Estimate row and column variances from the resolvent (Landa and Kluger, 2025, algorithm 1).

    With η the median singular value, g = η diag((WWᵀ + η²)⁻¹) solves the Dyson equation of the
    noise, whatever low-rank signal is added to it, and 1/g − η is proportional to the variances.
    The logarithms of the estimates scatter by √(2/p) and √(2/n), which is subtracted.

    Args:
        weight: shape (out, in).
        spectrum: the spectrum of ``weight``; the result is kept for as long as this object exists.
    """
    n, p = spectrum.n, spectrum.p
    variance = n * float(np.median(spectrum.eigenvalues))
    if variance == 0:  # no noise, no variances
        return Variances(np.ones(n), np.ones(p), 0.0)
    # In units in which the median singular value is 1: L Lᵀ = WᵀW + 1.
    lower, scale = known_gram(weight, spectrum)
    lower *= scale**2 / variance
    lower[np.diag_indices(p)] += 1
    call("dpotrf", "L", p, lower, p)
    call("dtrtri", "L", "N", p, lower, p)
    long = np.empty(n)
    for part, block in row_blocks(weight, math.sqrt(variance)):
        # A product with the inverse takes a third of the time of solving with L.
        call("dtrmm", "L", "L", "N", "N", p, len(block), 1.0, lower, p, block, p)
        long[part] = 1 - np.einsum("ij,ij->i", block, block)
    short = np.einsum("ij,ij->j", lower, lower)  # the diagonal of (L Lᵀ)⁻¹
    rows, long_spread = _shrunk(1 / long - 1, math.sqrt(2 / p))
    columns, short_spread = _shrunk(1 / short - 1, math.sqrt(2 / n))
    return Variances(rows, columns, max(long_spread, short_spread))


@_once
def excess_kurtosis(weight: Weight, spectrum: Spectrum) -> float:
    """Return the excess kurtosis of the entries: 0 for Gaussian noise, −1.2 for uniform.

    Args:
        weight: shape (out, in).
        spectrum: the spectrum of ``weight``; the result is kept for as long as this object exists.
    """
    return _kurtosis(block for _, block in row_blocks(weight, _unit(spectrum)))


def heavy_tailed(weight: Weight, spectrum: Spectrum, spikes: int) -> bool:
    """Whether single entries stand out that neither signal nor unequal variances explain.

    A weight with light tails is decided at once. Otherwise the spikes are removed and the row and
    column variances are divided out before the kurtosis is taken.

    Args:
        weight: shape (out, in).
        spectrum: the spectrum of ``weight``.
        spikes: number of eigenvalues that count as signal.
    """
    if excess_kurtosis(weight, spectrum) <= HEAVY:
        return False
    variances = dyson_variances(weight, spectrum)
    removed = spikes if spikes < spectrum.p else 0
    basis = leading_vectors(weight, spectrum, removed)
    long, short = 1 / np.sqrt(variances.rows), 1 / np.sqrt(variances.columns)

    def noise() -> Iterator[FloatArray]:
        for rows, block in row_blocks(weight, _unit(spectrum)):
            block -= (block @ basis) @ basis.T
            block *= long[rows, None]
            block *= short
            yield block

    return _kurtosis(noise()) > HEAVY


#: Entries with a larger excess kurtosis count as heavy-tailed. Student's t has it with 5 degrees of
#: freedom, the fewest with which single entries create no spikes of their own.
HEAVY = 6.0
#: Rows or columns whose log variances have a larger standard deviation count as different in noise.
UNEQUAL = 0.3


def _unit(spectrum: Spectrum) -> float:
    """Return the root mean square of the weight's entries: ‖W‖² = n Σ λᵢ, over n p entries."""
    return math.sqrt(float(spectrum.eigenvalues.mean())) or 1.0


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
