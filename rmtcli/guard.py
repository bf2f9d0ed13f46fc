"""The smallest network whose score stays within a limit, found with few measurements."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from statistics import NormalDist

import numpy as np
from numpy.typing import NDArray

#: Measurements of the bisection; each halves the range of sizes on a logarithmic scale.
PROBES = 10
#: Factor by which a size grows when fresh samples do not confirm it.
RETREAT = 1.15


def smallest(
    low: int, high: int, passes: Callable[[int], bool], confirms: Callable[[int], bool]
) -> int | None:
    """The smallest size from ``low`` to below ``high`` that passes, confirmed on fresh samples.

    The score of a network is noisy, and a search takes the luckiest of many: what it found is
    measured again on samples that it has not seen, and grows until they confirm it.

    Args:
        low: smallest size possible.
        high: the dense size, which passes by definition.
        passes: whether a size stays within the limit on the samples of the search.
        confirms: the same on fresh samples.

    Returns:
        A size, or None where only the dense network stays within the limit.
    """
    good, bad = float(high), float(low)
    if low < high and passes(low):
        good = float(low)
    else:
        for _ in range(PROBES):
            middle = math.sqrt(good * bad)
            if int(middle) in (int(good), int(bad)):
                break
            if passes(int(middle)):
                good = middle
            else:
                bad = middle
    while good < high:
        if confirms(int(good)):
            return int(good)
        good *= RETREAT
    return None


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
