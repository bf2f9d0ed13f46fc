"""How good the rows of a network's outputs are, and how far they are from another network's."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from rmtcli.arrays import FloatArray
from rmtcli.evaluation.confidence import confidence, cosines, kullback_leibler
from rmtcli.evaluation.reading import Rows

Outputs = NDArray[np.floating]


def merits(outputs: Outputs, targets: NDArray[np.generic], rows: Rows) -> FloatArray:
    """How good each row is, shape (samples,); the mean is the quality of the network.

    The mean is the accuracy of classes, the share of labels that are right, the mean cosine of
    embeddings, or R² of numbers, which is the mean of R² over the outputs whose targets vary (as
    scikit-learn's ``r2_score`` has it).

    Args:
        outputs: shape (samples, width).
        targets: class numbers, shape (samples,); or labels, embeddings or numbers, shape (samples,
            width).
        rows: what a row is.

    Raises:
        ValueError: all samples have the same numbers as targets, so that R² is not defined.
    """
    if rows is Rows.CLASSES:
        return np.asarray(outputs.argmax(1) == targets, np.float64)
    if rows is Rows.LABELS:
        return np.asarray(((outputs > 0) == (targets > 0)).mean(1))  # type: ignore[operator]
    if rows is Rows.VECTORS:
        return cosines(np.asarray(targets, np.float64), outputs)
    wanted = np.asarray(targets, np.float64)
    variance = wanted.var(0)
    varying = variance > 0
    if not varying.any():
        raise ValueError("all samples have the same targets, so that R² is not defined")
    squares = (outputs.astype(np.float64) - wanted)[:, varying] ** 2
    return np.asarray(1 - (squares / variance[varying]).mean(1))


def least_step(outputs: Outputs | None, rows: Rows) -> float:
    """The least difference between the merits of two rows; 0 if they differ continuously."""
    if rows is Rows.LABELS and outputs is not None:
        return 1 / int(outputs.shape[1])
    return 1.0 if rows is Rows.CLASSES else 0.0


def squared_error(outputs: Outputs, targets: NDArray[np.generic]) -> float:
    """Mean squared error of numbers over samples and outputs."""
    return float(np.mean((outputs.astype(np.float64) - np.asarray(targets, np.float64)) ** 2))


def divergence(before: Outputs, after: Outputs, rows: Rows) -> float:
    """Mean Kullback–Leibler divergence in nats: per sample of classes, or per label.

    Args:
        before: shape (samples, width), scores of the classes or labels.
        after: the scores of another network.
        rows: classes or labels.
    """
    if rows is Rows.CLASSES:
        return kullback_leibler(before, after)
    pairs = (np.stack([x.ravel(), np.zeros(x.size)], axis=1) for x in (before, after))
    return kullback_leibler(*pairs)


def distance(before: Outputs, after: Outputs, rows: Rows) -> float:
    """How far outputs are apart, as a mean over samples.

    The divergence of classes or labels, 1 minus the mean cosine of embeddings, or the mean squared
    difference of numbers.
    """
    if rows is Rows.VECTORS:
        return 1 - float(cosines(before, after).mean())
    if rows is Rows.VALUES:
        return squared_error(after, before)
    return divergence(before, after, rows)


def margins(outputs: Outputs, decided: NDArray[np.generic], rows: Rows) -> FloatArray:
    """The margin of each sample's class, shape (samples,); or of each label, shape (labels,).

    A label's margin is its score if it is set, and minus its score if it is not.

    Args:
        outputs: shape (samples, width), scores of the classes or labels.
        decided: class numbers, shape (samples,), or whether labels are set, shape (samples, width).
        rows: classes or labels.
    """
    if rows is Rows.CLASSES:
        return confidence(outputs, np.asarray(decided, np.int64))
    signs = np.where(np.asarray(decided) > 0, 1.0, -1.0)
    return np.asarray(signs * outputs.astype(np.float64)).ravel()


def relative_change(before: Outputs, after: Outputs) -> float | None:
    """Root mean square change as a share of the root mean square deviation from the mean row.

    Returns:
        The share; None if all rows of ``before`` are equal.
    """
    a, b = before.astype(np.float64), after.astype(np.float64)
    spread = np.linalg.norm(a - a.mean(0))
    return float(np.linalg.norm(b - a) / spread) if spread else None
