"""The smallest network whose score stays within a limit, found with few measurements."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from statistics import NormalDist

import numpy as np
from numpy.typing import NDArray

#: Measurements of the bisection at most; each halves the range of sizes on a logarithmic scale.
PROBES = 10
#: Sizes this near to one another are not told apart.
RESOLUTION = 1.005
#: Factor by which a size grows when fresh samples do not confirm it.
RETREAT = 1.15


@dataclass(frozen=True, slots=True)
class Range:
    """Where a search looks.

    Attributes:
        least: smallest size possible.
        start: size to try first.
        dense: size of the dense network, which passes by definition.
    """

    least: int
    start: int
    dense: int


@dataclass(frozen=True, slots=True)
class SearchResult:
    """What a search came to.

    Attributes:
        size: the smallest size within the limit, or None where nothing can be removed.
        searched: samples that the search saw.
        confirmed: samples that confirmed what it found.
    """

    size: int | None
    searched: int
    confirmed: int


def smallest(
    sizes: Range, passes: Callable[[int], bool], confirms: Callable[[int], bool]
) -> int | None:
    """The smallest size below the dense one that passes, confirmed on fresh samples.

    From the start the search moves by a factor of two until it has a size that passes and one that
    does not, then bisects on a logarithmic scale. The score of a network is noisy, and a search
    takes the luckiest of many: what it found is measured again on samples that it has not seen,
    and grows until they confirm it.

    Args:
        sizes: where to look.
        passes: whether a size stays within the limit on the samples of the search.
        confirms: the same on fresh samples.

    Returns:
        A size, or None where only the dense network stays within the limit.
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
    """A size that passes and a smaller one that does not; the least twice if that one passes."""
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
    """A limit on what may be lost, and what is known about keeping it.

    Attributes:
        max_drop: points of accuracy, or units of the user's own score, that may be lost.
        searched: samples that the search saw.
        confirmed: samples that confirmed what it found.
        confidence: probability that the drop is within the limit, from the report's samples;
            None for a score of the user's own, which is one number.
    """

    max_drop: float
    searched: int
    confirmed: int
    confidence: float | None


@dataclass(frozen=True, slots=True)
class PairedDrop:
    """The accuracy lost on samples that both networks saw.

    Attributes:
        drop: points of accuracy lost.
        error: standard error of that, in points.
    """

    drop: float
    error: float

    def confidence(self, limit: float) -> float:
        """Probability that the true drop is at most ``limit`` points (normal approximation)."""
        if self.error == 0:
            return 1.0 if self.drop <= limit else 0.0
        return NormalDist(self.drop, self.error).cdf(limit)


def paired_drop(before: NDArray[np.bool_], after: NDArray[np.bool_]) -> PairedDrop:
    """Compare two networks sample by sample.

    The two are right and wrong on nearly the same samples, so the difference is known far better
    than either accuracy: its variance is that of the few samples where they differ (McNemar,
    1947), with one such sample added each way so that no difference is not taken for certainty.

    Args:
        before: shape (samples,), where the dense network is right.
        after: shape (samples,), where the other one is.
    """
    n = len(before)
    lost, won = int(np.sum(before & ~after)), int(np.sum(~before & after))
    drop = (lost - won) / n
    variance = ((lost + won + 2) / n - drop**2) / n
    return PairedDrop(100 * drop, 100 * math.sqrt(max(variance, 0.0)))
