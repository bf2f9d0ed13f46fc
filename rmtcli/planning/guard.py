"""Find the smallest network whose loss stays within a limit, with few measurements."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from statistics import NormalDist

import numpy as np
from numpy.typing import NDArray

from rmtcli.arrays import FloatArray

#: Most measurements of the bisection; each halves the range of sizes on a logarithmic scale.
PROBES = 10
#: Sizes whose ratio is smaller than this count as equal.
RESOLUTION = 1.005
#: Probability with which the limit must be kept.
CONFIDENCE = 0.9
#: Factor by which standard errors are larger than the formula says, because a drop of few samples
#: is not normal and sizes are chosen by what is measured.
INFLATION = 1.5
#: A larger rise of the negative log-likelihood per token, in nats, counts as this one.
MOST_NATS = 100.0


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
class Drop:
    """What a network loses, as it was measured.

    Attributes:
        drop: points of accuracy lost, percent by which a perplexity rises, or units of the user's
            own score.
        error: standard error of the drop; 0 for a score of the user's own that is a single number,
            whose error nobody knows.
    """

    drop: float
    error: float

    def confidence(self, limit: float) -> float:
        """Probability that the true drop is at most ``limit`` (normal approximation)."""
        if self.error == 0:
            return 1.0 if self.drop <= limit else 0.0
        return NormalDist(self.drop, self.error).cdf(limit)

    def within(self, limit: float) -> bool:
        """Whether the true drop is at most ``limit`` with enough confidence."""
        return self.confidence(limit) >= CONFIDENCE


@dataclass(frozen=True, slots=True)
class Guard:
    """A limit on what may be lost, and how certain it is that it is kept.

    Attributes:
        max_drop: points of accuracy that may be lost, percent by which a perplexity may rise, or
            units of the user's own score.
        searched: number of samples that the loss was measured on.
        drop: the loss that is expected, in the same units; None where nothing can be removed.
        confidence: probability that the loss is within the limit, or more; None for a score
            computed by the user's function that is a single number, and where nothing can be
            removed.
    """

    max_drop: float
    searched: int
    drop: float | None
    confidence: float | None


def smallest(sizes: Range, measure: Callable[[int], Drop], limit: float) -> tuple[int, Drop] | None:
    """The smallest size below the dense one whose loss is within the limit.

    From the start the search moves by factors of two until it has a size that passes and one that
    does not, then bisects on a logarithmic scale. A larger network loses no more, so that the drops
    of all sizes that were measured are made monotone before one of them is chosen.

    Args:
        sizes: where to look.
        measure: the loss of a size.
        limit: the largest loss.

    Returns:
        A size and its loss, or None if only the dense network stays within the limit.
    """
    drops: dict[int, Drop] = {}

    def passes(size: int) -> bool:
        drops[size] = measure(size)
        return drops[size].within(limit)

    good, bad = _bracket(sizes, passes)
    for _ in range(PROBES):
        middle = math.isqrt(good * bad)
        if good <= bad * RESOLUTION or middle in (good, bad):
            break
        if passes(middle):
            good = middle
        else:
            bad = middle
    chosen = None
    for size, drop in reversed(_monotone(drops)):
        if not drop.within(limit):
            break
        chosen = size, drop
    return chosen


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


def _monotone(drops: dict[int, Drop]) -> list[tuple[int, Drop]]:
    """Sizes in increasing order, with drops that do not rise: the closest in least squares.

    Neighbours that are out of order get their mean (pool adjacent violators; Ayer et al., 1955).
    """
    blocks: list[list[int]] = []

    def mean(block: list[int]) -> Drop:
        values = [(drops[size].drop, drops[size].error) for size in block]
        drop, error = np.mean(values, axis=0)
        return Drop(float(drop), float(error))

    for size in sorted(drops):
        blocks.append([size])
        while len(blocks) > 1 and mean(blocks[-2]).drop < mean(blocks[-1]).drop:
            last = blocks.pop()
            blocks[-1] += last
    return [(size, mean(block)) for block in blocks for size in block]


def paired_drop(before: NDArray[np.generic], after: NDArray[np.generic], step: float = 1.0) -> Drop:
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
    return Drop(100 * drop, 100 * math.sqrt(max(variance, 0.0)))


def rise_of_perplexity(before: FloatArray, after: FloatArray) -> Drop:
    """By how many percent the perplexity of a text rises.

    Tokens of one text depend on each other, so that texts are compared, and not tokens: the mean
    difference of the log-likelihoods per token is a ratio of sums over texts, whose variance is
    that of a ratio estimate (Cochran, Sampling Techniques, 1977, section 6.4).

    Args:
        before: shape (texts, 2), the negative log-likelihood of each text's tokens in the dense
            network, and their number.
        after: shape (texts, 2), the same of the other network.
    """
    lengths = before[:, 1]
    more, tokens, n = after[:, 0] - before[:, 0], float(lengths.sum()), len(lengths)
    mean = float(more.sum()) / tokens
    if n < 2:
        return Drop(0.0, math.inf)
    rest = more - mean * lengths
    error = math.sqrt(float(rest @ rest) * n / (n - 1)) / tokens
    ratio = math.exp(min(mean, MOST_NATS))
    return Drop(100 * (ratio - 1), 100 * ratio * INFLATION * error)


def score_drop(before: FloatArray, after: FloatArray) -> Drop:
    """How much is lost of a score that is a mean over samples, in its own units.

    Args:
        before: shape (samples,), the dense network's score of each sample.
        after: shape (samples,), the other network's.
    """
    lost, n = before - after, len(before)
    if n < 2:
        return Drop(float(lost.mean()), math.inf)
    return Drop(float(lost.mean()), INFLATION * float(lost.std(ddof=1)) / math.sqrt(n))
