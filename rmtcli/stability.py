"""Stability of accuracy: how classification confidence is distributed, and what follows from it.

The confidence δX of a sample is the score of its class less the largest other score. Berlyand,
Jabin and Safsten (2021, arXiv 2002.04122) show that training which lowers the cross-entropy keeps a
high accuracy if no small group of samples has a confidence much nearer to 0 than all others: if
intervals around 0 hold clearly more samples when they are doubled. Shmalo (2022, arXiv 2210.08415)
makes the condition one on the data alone, which is not done here.

docs/theory.md states what is taken from these papers and what is proved there.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from rmtcli.arrays import FloatArray

#: Factor κ by which intervals are widened.
FACTOR = 2.0
#: Shares m₀ and δ of the samples: intervals that hold less than the first or, widened, at least the
#: second are not tested.
LEAST, MOST = 0.01, 0.5
#: Intervals that hold fewer samples are not tested either: their number says little.
FEWEST = 10


@dataclass(frozen=True, slots=True)
class Stability:
    """What the confidences of a network on some samples say about its training.

    Attributes:
        doubling: the largest σ with which intervals around 0 double: each that holds a share m of
            the samples holds (1 + σ)·m when it is twice as wide. None if no interval can be tested.
        cross_entropy: mean over the samples, in nats.
        stays: share of the samples that stay right as long as training does not raise the
            cross-entropy on them, or more.
    """

    doubling: float | None
    cross_entropy: float
    stays: float


def stability(margins: FloatArray, losses: FloatArray) -> Stability:
    """What confidences and cross-entropies say about training.

    A sample that is not right has a cross-entropy of at least ln 2, so that with a mean of L at
    most L/ln 2 of the samples are wrong.

    Args:
        margins: shape (samples,), the confidence of each sample in its class.
        losses: shape (samples,), the cross-entropy of each.
    """
    mean = float(losses.mean())
    return Stability(doubling(margins), mean, max(0.0, 1 - mean / math.log(2)))


def doubling(margins: FloatArray) -> float | None:
    """The largest σ with which a distribution of confidences satisfies the doubling condition.

    With F(x) the share of samples whose |δX| is at most x, it is F(κx) ≥ min(δ, (1 + σ) F(x)) for
    all x with F(x) ≥ m₀. Between two samples F(x) is constant and F(κx) rises, so that the samples'
    own |δX| are the only x to be tested.

    Args:
        margins: shape (samples,).

    Returns:
        σ ≥ 0; None if no interval holds enough samples, or none holds few enough.
    """
    sizes = np.sort(np.abs(margins))
    n = len(sizes)
    within = np.searchsorted(sizes, sizes, side="right")
    widened = np.searchsorted(sizes, FACTOR * sizes, side="right")
    tested = (within >= max(LEAST * n, FEWEST)) & (widened < MOST * n)
    if not tested.any():
        return None
    return float((widened[tested] / within[tested]).min() - 1)


def near_zero(sigma: float, ratio: float) -> float:
    """The largest share of samples that can have a confidence of at most ``ratio`` · η.

    η is the confidence below which a share δ of the samples lies, and the bound holds while the
    share is at least m₀: widening by κ as often as it fits below η multiplies the share by 1 + σ
    each time, and gives at most δ.

    Args:
        sigma: the σ of :func:`doubling`.
        ratio: a confidence as a share of η, in (0, 1].
    """
    times = math.floor(math.log(1 / ratio) / math.log(FACTOR) + 1e-12)
    return max(LEAST, MOST / (1 + sigma) ** times)


def cross_entropies(
    log_probabilities: NDArray[np.floating], classes: NDArray[np.int64]
) -> FloatArray:
    """Minus the logarithm of the probability of each sample's class, shape (samples,).

    Args:
        log_probabilities: shape (samples, classes).
        classes: shape (samples,).
    """
    return np.asarray(-log_probabilities[np.arange(len(classes)), classes], np.float64)
