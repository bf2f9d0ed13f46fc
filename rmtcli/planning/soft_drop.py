"""The accuracy that a pruned network loses, measured by how far all margins have moved."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from rmtcli.arrays import FloatArray
from rmtcli.planning.guard import Drop

#: Points lost per point of soft drop, before labels say more: mean and standard deviation over
#: networks. It is 0.9 to 2.4 near half a point on six networks (docs/benchmarks-linear.md).
RATIO, RATIO_SPREAD = 1.75, 0.6
#: Ratios outside of these are errors of the measurement.
RATIOS = (0.5, 4.0)
#: The share of the samples, and the least number, whose margins count as similar.
SIMILAR, LEAST_SIMILAR = 0.05, 50


@dataclass(frozen=True, slots=True, eq=False)
class Margins:
    """The dense network's classes of some samples.

    Attributes:
        own: shape (samples,), the score of the dense network's class less the largest other score.
        stakes: shape (samples,), the probability of that class less that of the second one: what is
            lost on average where a network chooses the second class.
    """

    own: FloatArray
    stakes: FloatArray


def soft_drop(
    before: NDArray[np.generic], after: NDArray[np.generic], dense: Margins, moved: FloatArray
) -> Drop:
    """The accuracy lost, measured by the margins of all samples.

    The labels correct the soft drop by one factor, the ratio of points lost to it, which is shrunk
    towards what it is for other networks: few samples decide it.

    Args:
        before: shape (samples,), 1 where the dense network is right, else 0.
        after: shape (samples,), the same of the other network.
        dense: the dense network's margins.
        moved: shape (samples,), by how much smaller the margins of the dense network's classes are
            in the other network.
    """
    n, lost = len(moved), before.astype(np.float64) - after.astype(np.float64)
    soft, influence = expected_loss(dense, moved)
    total, prior = n * soft, RATIO_SPREAD**2
    # The variance of Σ lost, given which samples differ; one sample at least.
    noise = max(float(lost @ lost), 1.0)
    weight = prior * total**2 / (prior * total**2 + noise)
    measured = float(lost.sum()) / total if total else RATIO
    ratio = min(max(RATIO + weight * (measured - RATIO), RATIOS[0]), RATIOS[1])
    of_ratio = (1 - weight) * prior * soft**2
    # Half a sample may always be lost, so that equal results do not look certain.
    variance = ratio**2 * float(influence @ influence) / n**2 + of_ratio + (0.5 / n) ** 2
    return Drop(100 * ratio * soft, 100 * math.sqrt(variance))


def expected_loss(dense: Margins, moved: FloatArray) -> tuple[float, FloatArray]:
    """What is lost on average if each sample's margin may move as those of all others do.

    A class changes where its margin falls by more than it is. Few samples are near enough to that,
    but all margins move: relative to the movements of similar margins, their movements are taken to
    have one distribution. So the share of all samples that moved by more than a sample's margin is
    the probability that its class changes, and each sample tells something about every other one.

    Args:
        dense: the dense network's margins.
        moved: shape (samples,), by how much the margins fell.

    Returns:
        The mean of the stakes times the probability of a change; and how much each sample
        contributes to it beyond the mean, shape (samples,), as a U-statistic of order two has it
        (Hoeffding, 1948): the sum of their squares over n² is the variance.
    """
    n, scale = len(moved), _typical(dense.own, moved)
    needed, jumps = dense.own / scale, moved / scale
    changes = 1 - np.searchsorted(np.sort(jumps), needed, side="right") / n
    as_sample = dense.stakes * changes
    order = np.argsort(needed)
    reached = np.searchsorted(needed[order], jumps, side="left")
    as_jump = np.concatenate([[0.0], np.cumsum(dense.stakes[order])])[reached] / n
    mean = float(as_sample.mean())
    return mean, as_sample + as_jump - 2 * mean


def _typical(margins: FloatArray, moved: FloatArray) -> FloatArray:
    """Mean absolute movement of the margins that are similar to each, shape (samples,)."""
    n, order = len(margins), np.argsort(margins, kind="stable")
    width = min(n, max(LEAST_SIMILAR, round(SIMILAR * n)))
    sums = np.concatenate([[0.0], np.cumsum(np.abs(moved[order]))])
    first = np.clip(np.arange(n) - width // 2, 0, n - width)
    typical = np.empty(n)
    typical[order] = (sums[first + width] - sums[first]) / width
    return np.maximum(typical, np.finfo(np.float64).eps)
