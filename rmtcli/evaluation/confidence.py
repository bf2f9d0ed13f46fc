"""Measures of a network's outputs: margins, and the distance from another network's outputs."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from rmtcli.arrays import FloatArray

#: Least and largest temperature that is tried, and their number.
TEMPERATURES = 0.2, 10.0, 50


def log_probabilities(outputs: NDArray[np.floating]) -> FloatArray:
    """Logarithms of the softmax of class scores, shape (samples, classes), in float64."""
    shifted = outputs.astype(np.float64) - outputs.max(1, keepdims=True)
    return np.asarray(shifted - np.log(np.exp(shifted).sum(1, keepdims=True)))


def kullback_leibler(before: NDArray[np.floating], after: NDArray[np.floating]) -> float:
    """Mean over the samples of Σ p log(p/q), in nats, p and q being the softmax of class scores.

    Args:
        before: shape (samples, classes), the scores whose softmax is p.
        after: shape (samples, classes), the scores whose softmax is q.
    """
    p, q = log_probabilities(before), log_probabilities(after)
    return max(float((np.exp(p) * (p - q)).sum(1).mean()), 0.0)


def cosines(before: NDArray[np.floating], after: NDArray[np.floating]) -> FloatArray:
    """Cosine between corresponding rows of two arrays, shape (rows,); 0 where a row is 0.

    Args:
        before: shape (rows, width).
        after: shape (rows, width).
    """
    a, b = before.astype(np.float64), after.astype(np.float64)
    norms = np.linalg.norm(a, axis=1) * np.linalg.norm(b, axis=1)
    return np.asarray((a * b).sum(1) / np.where(norms > 0, norms, 1.0))


def confidence(outputs: NDArray[np.floating], classes: NDArray[np.int64]) -> FloatArray:
    """Score of each sample's class minus the largest other score, shape (samples,).

    It is negative where the network predicts another class. Called classification confidence by
    Berlyand, Jabin and Safsten (2021).

    Args:
        outputs: shape (samples, classes), at least two classes.
        classes: shape (samples,), class numbers.
    """
    scores = outputs.astype(np.float64)
    rows = np.arange(len(scores))
    own = scores[rows, classes]
    scores[rows, classes] = -np.inf
    return np.asarray(own - scores.max(1))


def probabilities(outputs: NDArray[np.floating], classes: NDArray[np.generic]) -> FloatArray:
    """Softmax of class scores at the temperature at which labels are most likely.

    Networks are more confident than they are right; a temperature repairs most of it (Guo, Pleiss,
    Sun and Weinberger, 2017).

    Args:
        outputs: shape (samples, classes).
        classes: shape (samples,), the labels.
    """
    rows = np.arange(len(outputs))

    def surprise(temperature: float) -> float:
        return -float(log_probabilities(outputs / temperature)[rows, classes].mean())

    temperatures = np.geomspace(*TEMPERATURES)
    best = min(temperatures, key=surprise)
    return np.asarray(np.exp(log_probabilities(outputs / best)))
