"""The guard's search: measure the loss of networks of several sizes on the same samples."""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from rmtcli.arrays import FloatArray
from rmtcli.checkpoint import Checkpoint
from rmtcli.errors import EvaluationError, UsageError
from rmtcli.evaluation import Harness, Reading, Rows, Samples, Scores
from rmtcli.evaluation.confidence import confidence, probabilities
from rmtcli.evaluation.measures import least_step
from rmtcli.evaluation.network import build, reading_of
from rmtcli.evaluation.score import measure
from rmtcli.options import option
from rmtcli.planning import (
    Drop,
    Margins,
    Range,
    paired_drop,
    rise_of_perplexity,
    score_drop,
    smallest,
    soft_drop,
)

T = TypeVar("T")

_LOGGER = logging.getLogger(__name__)


def search(
    harness: Harness,
    samples: Samples | None,
    make: Callable[[int], Checkpoint],
    sizes: Range,
    max_drop: float,
) -> tuple[int, Drop] | None:
    """Find the smallest size whose network loses no more than ``max_drop``.

    Args:
        harness: the dense network, and how to score it.
        samples: held-out samples, or None.
        make: returns the pruned checkpoint of a size.
        sizes: the sizes to search.
        max_drop: points of accuracy, of cosine or of R², percent of perplexity, or units of the
            user's own score.

    Returns:
        The size and its loss; None if nothing can be removed.

    Raises:
        UsageError: there is nothing to measure accuracy or a score with.
        EvaluationError: there are too few samples to promise so little loss.
    """
    batch, function = harness.task.batch, harness.evaluation.score
    dense = build(harness)
    reading = reading_of(harness, dense, samples)
    blind = samples is None or (samples.targets is None and reading.rows.needs_targets)
    if function is None and blind:
        raise UsageError(
            f"{option('max-drop')} needs {option('data')} with 'targets', or {option('eval')}"
        )
    before = measure(dense, samples, function, reading, batch=batch)
    loss = _loss(before, samples, reading)
    if not loss(before).within(max_drop):
        raise EvaluationError(
            f"{harness.evaluation.data}: {len(samples.inputs) if samples else 0:,} samples are "
            f"too few for {option('max-drop', max_drop)}: even of equal results, "
            f"{loss(before).error:.2g} is uncertain: give more samples, or a larger limit"
        )

    def lost(size: int) -> Drop:
        network = build(harness, make(size))
        drop = loss(measure(network, samples, function, reading, before, batch=batch))
        _LOGGER.info("size %s: the loss is %.3g ± %.2g", f"{size:,}", drop.drop, drop.error)
        return drop

    return smallest(sizes, lost, max_drop)


def _loss(before: Scores, samples: Samples | None, reading: Reading) -> Callable[[Scores], Drop]:
    """The function that measures what a network loses against the dense one.

    It is the user's own score if there is one, then the perplexity. For classes it is the soft
    drop, and for other rows the mean difference of their merits.
    """
    own, texts = before.score, before.texts
    if own is not None:
        return lambda after: _of_score(own, before, after)
    if texts is not None:
        return lambda after: rise_of_perplexity(texts, _known(after.texts))
    merits = _known(before.merits)
    if reading.rows is Rows.CLASSES and before.outputs is not None and samples is not None:
        return _soft(before.outputs, merits, _known(reading.ready(samples).targets))
    step = least_step(before.outputs, reading.rows)
    return lambda after: paired_drop(merits, _known(after.merits), step)


def _of_score(own: float, before: Scores, after: Scores) -> Drop:
    """What is lost of the user's own score, with its error if every sample has a score.

    Raises:
        EvaluationError: the function returns other numbers of scores for the two networks.
    """
    if before.scored is None and after.scored is None:
        return Drop(own - _known(after.score), 0.0)
    first, second = before.scored, after.scored
    if first is None or second is None or first.shape != second.shape:
        raise EvaluationError(
            f"the function of {option('eval')} returns one score per sample for some networks "
            "only, or for other samples: let it score the same samples, in the same order"
        )
    return score_drop(first, second)


def _soft(
    outputs: NDArray[np.floating], merits: FloatArray, targets: NDArray[np.generic]
) -> Callable[[Scores], Drop]:
    """The function that measures the soft drop against the dense network with these outputs."""
    classes = outputs.argmax(1)
    second, first = np.sort(probabilities(outputs, targets), axis=1)[:, -2:].T
    dense = Margins(confidence(outputs, classes), first - second)

    def drop(after: Scores) -> Drop:
        moved = dense.own - confidence(_known(after.outputs), classes)
        return soft_drop(merits, _known(after.merits), dense, moved)

    return drop


def _known(value: T | None) -> T:
    """A value that is measured in every network if it is measured in one."""
    assert value is not None
    return value
