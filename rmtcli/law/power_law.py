"""The power law of the largest eigenvalues: density λ^(−α) from x_min on."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from rmtcli.arrays import FloatArray

#: Entries of a block of tails that are compared at once: 8 MB.
_BLOCK = 2**20


@dataclass(frozen=True, slots=True)
class PowerLaw:
    """A fitted tail.

    Attributes:
        alpha: exponent of the density, above 1.
        error: its standard error, (α − 1)/√m for m eigenvalues in the tail.
        x_min: where the tail begins, in the unit of the values.
        count: m, the values from x_min on.
        distance: Kolmogorov–Smirnov distance of the tail to the fit.
    """

    alpha: float
    error: float
    x_min: float
    count: int
    distance: float


def clauset(values: FloatArray) -> PowerLaw | None:
    """The tail whose fit is nearest to it (Clauset, Shalizi and Newman, 2009, section 3).

    For each value as x_min, α = 1 + m/Σ ln(xᵢ/x_min) by maximum likelihood (their equation 3.1);
    of all, that with the least distance is taken. As in their program, and in ``powerlaw`` and
    WeightWatcher after it, the distance is taken at the lower end of each step of the empirical
    function, and the last value alone is no tail.

    Args:
        values: shape (p,), ascending; zeros are no part of any tail.

    Returns:
        The fit, or None where there are not two different positive values.
    """
    logs = np.log(values[values > 0])
    if len(logs) < 2:
        return None
    p = len(logs)
    counts = np.arange(p, 1, -1)  # of the tails that begin with value 0, 1, …, p − 2
    excess = (np.cumsum(logs[::-1])[::-1])[:-1] - counts * logs[:-1]
    # A tail of equal values has no exponent; what is left of its sum is rounding.
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
    """Exponent of the density from the larger half: Hill's (1975) estimate of it, with k = p/2.

    1 + k/Σ ln(xᵢ/x₀) over the k largest values, x₀ the next one. With a fixed share no search
    decides what the tail is; Zhou and others (2023) use it for layers.

    Args:
        values: shape (p,), ascending.

    Returns:
        The exponent, or None where x₀ is 0 or all values above it are equal to it.
    """
    k = len(values) // 2
    start = float(values[len(values) - k - 1])
    if k == 0 or start <= 0 or not values[-1] > start:
        return None
    return 1 + k / float(np.sum(np.log(values[len(values) - k :] / start)))


def _distances(logs: FloatArray, starts: NDArray[np.intp], slopes: FloatArray) -> FloatArray:
    """Shape (len(starts),): distance of each tail to its own fit."""
    first = int(starts[0])
    place = np.arange(first, len(logs)) - starts[:, None]
    above = np.maximum(logs[first:] - logs[starts][:, None], 0.0)
    fitted = -np.expm1(-slopes[:, None] * above)
    empirical = place / (len(logs) - starts)[:, None]
    return np.asarray(np.max(np.abs(fitted - empirical), axis=1, where=place >= 0, initial=0.0))
