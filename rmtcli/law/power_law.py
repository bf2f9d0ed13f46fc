"""The power law of the largest eigenvalues: density λ^(−α) above x_min."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from rmtcli.arrays import FloatArray

#: Number of entries of the block of tails that is compared at a time: few, because a block's tails
#: begin where its first one begins.
_BLOCK = 2**15


@dataclass(frozen=True, slots=True)
class PowerLaw:
    """A power law fitted to the tail of a spectrum.

    Attributes:
        alpha: exponent of the density, above 1.
        error: standard error of ``alpha``, (α − 1)/√m for m eigenvalues in the tail.
        x_min: smallest value of the tail, in the unit of the values.
        count: m, the number of values in the tail.
        distance: Kolmogorov–Smirnov distance between the tail and the fit.
    """

    alpha: float
    error: float
    x_min: float
    count: int
    distance: float


def clauset(values: FloatArray) -> PowerLaw | None:
    """Fit the tail that is nearest to its power law (Clauset, Shalizi and Newman, 2009, section 3).

    For each value as x_min, α = 1 + m/Σ ln(xᵢ/x_min) by maximum likelihood (their equation 3.1).
    The fit with the least distance is returned. As in their program, in ``powerlaw`` and in
    WeightWatcher, the distance is taken at the lower end of each step of the empirical
    distribution function, and the largest value alone does not count as a tail. Equivalent to
    ``powerlaw.Fit(values)`` of the package ``powerlaw``.

    Args:
        values: shape (p,), ascending; zeros belong to no tail.

    Returns:
        The fit, or None without two different positive values.
    """
    logs = np.log(values[values > 0])
    if len(logs) < 2:
        return None
    p = len(logs)
    counts = np.arange(p, 1, -1)  # lengths of the tails that begin with value 0, 1, …, p − 2
    excess = (np.cumsum(logs[::-1])[::-1])[:-1] - counts * logs[:-1]
    # A tail of equal values has no exponent: its sum is rounding error.
    wide = logs[-1] - logs[:-1] > p * np.finfo(float).eps * max(1.0, np.abs(logs).max())
    starts = np.flatnonzero(wide)
    if not len(starts):
        return None
    slopes = counts[starts] / excess[starts]
    step = max(1, _BLOCK // p)
    blocks = [slice(i, i + step) for i in range(0, len(starts), step)]
    distances = np.concatenate([_distances(logs, starts[b], slopes[b]) for b in blocks])
    best = int(np.argmin(distances))
    slope, count = float(slopes[best]), int(counts[starts[best]])
    x_min = float(values[len(values) - count])
    return PowerLaw(1 + slope, slope / math.sqrt(count), x_min, count, float(distances[best]))


def hill(values: FloatArray) -> float | None:
    """Return Hill's (1975) estimate of the exponent of the density, from the larger half.

    It is 1 + k/Σ ln(xᵢ/x₀) over the k = p/2 largest values, where x₀ is the next one. The tail has
    a fixed size, so that no search decides where it begins; Zhou and others (2023) use it for
    layers.

    Args:
        values: shape (p,), ascending.

    Returns:
        The exponent, or None where x₀ is 0 or equal to the largest value.
    """
    k = len(values) // 2
    start = float(values[len(values) - k - 1])
    if k == 0 or start <= 0 or not values[-1] > start:
        return None
    return 1 + k / float(np.sum(np.log(values[len(values) - k :] / start)))


def _distances(logs: FloatArray, starts: NDArray[np.intp], slopes: FloatArray) -> FloatArray:
    """Return the distance of each tail to its own fit, shape (len(starts),).

    Args:
        logs: shape (p,), logarithms of the values, ascending.
        starts: index of the first value of each tail.
        slopes: α − 1 of each tail.
    """
    first = int(starts[0])
    index = np.arange(first, len(logs)) - starts[:, None]
    above = np.maximum(logs[first:] - logs[starts][:, None], 0.0)
    fitted = -np.expm1(-slopes[:, None] * above)
    empirical = index / (len(logs) - starts)[:, None]
    return np.asarray(np.max(np.abs(fitted - empirical), axis=1, where=index >= 0, initial=0.0))
