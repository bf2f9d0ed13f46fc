"""Find the smallest network whose score stays within a limit, with few measurements."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from statistics import NormalDist

import numpy as np
from numpy.typing import NDArray

#: Most measurements of the bisection; each halves the range of sizes on a logarithmic scale.
PROBES = 10
#: Sizes whose ratio is smaller than this count as equal.
RESOLUTION = 1.005
#: Factor by which a size grows when fresh samples do not confirm it.
RETREAT = 1.15


@dataclass(frozen=True, slots=True)
class Range:
    """The sizes among which a search looks.

    Attributes:
        least: smallest possible size.
        start: size to try first.
        dense: size of the dense network, which is within the limit by definition.
    """

    least: int
    start: int
    dense: int


@dataclass(frozen=True, slots=True)
class SearchResult:
    """The result of a search.

    Attributes:
        size: the smallest size within the limit, or None if nothing can be removed.
        searched: number of samples that the search used.
        confirmed: number of fresh samples on which its result was confirmed.
    """

    size: int | None
    searched: int
    confirmed: int


def smallest(
    sizes: Range, passes: Callable[[int], bool], confirms: Callable[[int], bool]
) -> int | None:
    """The smallest size below the dense one that passes, confirmed on fresh samples.

    From the start the search moves by factors of two until it has a size that passes and one that
    does not, then bisects on a logarithmic scale. Scores are noisy, and a search prefers sizes that
    were lucky: its result is therefore measured again on samples that it has not used, and grows
    until they confirm it.

    Args:
        sizes: where to look.
        passes: whether a size stays within the limit on the samples of the search.
        confirms: whether a size stays within the limit on fresh samples.

    Returns:
        A size, or None if only the dense network stays within the limit.
    """
    good, bad = _bracket(sizes, passes)
    for _ in range(PROBES):
        middle = math.isqrt(good * bad)
        if good <= bad * RESOLUTION or middle in (good, bad):
            break
        if passes(middle):
            good = middle
        else:
            bad = middle
    size = float(good)
    while size < sizes.dense:
        if confirms(int(size)):
            return int(size)
        size *= RETREAT
    return None


def _bracket(sizes: Range, passes: Callable[[int], bool]) -> tuple[int, int]:
    """A size that passes and a smaller one that does not; the least size twice if it passes."""
    size = min(max(sizes.start, sizes.least), sizes.dense)
    if size < sizes.dense and passes(size):
        while size > sizes.least:
            smaller = max(size // 2, sizes.least)
            if not passes(smaller):
                return size, smaller
            size = smaller
        return size, size
    while size < sizes.dense:
        larger = min(2 * size, sizes.dense)
        if larger == sizes.dense or passes(larger):
            return larger, size
        size = larger
    return sizes.dense, sizes.least


@dataclass(frozen=True, slots=True)
class Guard:
    """A limit on what may be lost, and how certain it is that it is kept.

    Attributes:
        max_drop: points of accuracy, or units of the user's own score, that may be lost.
        searched: number of samples that the search used.
        confirmed: number of fresh samples on which its result was confirmed.
        confidence: probability that the drop is within the limit, from the report's samples;
            None for a score computed by the user's function, which is a single number.
    """

    max_drop: float
    searched: int
    confirmed: int
    confidence: float | None


@dataclass(frozen=True, slots=True)
class PairedDrop:
    """The accuracy lost, measured on the same samples for both networks.

    Attributes:
        drop: points of accuracy lost.
        error: standard error of the drop, in points.
    """

    drop: float
    error: float

    def confidence(self, limit: float) -> float:
        """Probability that the true drop is at most ``limit`` points (normal approximation)."""
        if self.error == 0:
            return 1.0 if self.drop <= limit else 0.0
        return NormalDist(self.drop, self.error).cdf(limit)


def paired_drop(
    before: NDArray[np.generic], after: NDArray[np.generic], step: float = 1.0
) -> PairedDrop:
    """Compare two networks sample by sample.

    Both networks are right and wrong on nearly the same samples, so the difference is known far
    better than either accuracy: its variance comes from the few samples where they differ (McNemar,
    1947). One such sample is added in each direction, so that equal results do not look certain.

    Args:
        before: shape (samples,), how good the dense network's output is; 0 or 1 where it is wrong
            or right.
        after: shape (samples,), how good the other network's output is.
        step: the least difference between two such values; 0 if they differ continuously.
    """
    n = len(before)
    lost = before.astype(np.float64) - after.astype(np.float64)
    drop = float(lost.mean())
    variance = ((float(lost @ lost) + 2 * step**2) / n - drop**2) / n
    return PairedDrop(100 * drop, 100 * math.sqrt(max(variance, 0.0)))
