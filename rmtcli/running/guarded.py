"""The guard's search: measure on one part of the held-out samples, confirm on another."""

from __future__ import annotations

import logging
from collections.abc import Callable

from rmtcli.checkpoint import Checkpoint
from rmtcli.errors import EvaluationError, UsageError
from rmtcli.evaluation import Harness, Samples, Scores
from rmtcli.evaluation.network import build, reading_of
from rmtcli.evaluation.score import measure
from rmtcli.planning import Range, SearchResult, smallest

_LOGGER = logging.getLogger(__name__)

#: Shares of the held-out samples that the guard uses to search, to confirm the result of the
#: search, and to report.
SHARES = (0.4, 0.2, 0.4)


def search(
    harness: Harness,
    make: Callable[[int], Checkpoint],
    sizes: Range,
    max_drop: float,
) -> tuple[SearchResult, Samples | None]:
    """Find the smallest size whose network loses no more than ``max_drop``.

    Args:
        harness: the dense network, and how to score it; its samples are divided between search,
            confirmation and report.
        make: returns the pruned checkpoint of a size.
        sizes: the sizes to search.
        max_drop: points of accuracy, of cosine or of R², or units of the user's own score.

    Returns:
        The result, and the samples that neither search nor confirmation used.

    Raises:
        UsageError: there is nothing to measure accuracy or a score with.
        EvaluationError: there are too few samples to divide.
    """
    task, samples, function = harness.task, harness.samples, harness.evaluation.score
    dense = build(harness)
    reading = reading_of(harness, dense, samples)
    blind = samples is None or (samples.targets is None and reading.rows.needs_targets)
    if function is None and blind:
        raise UsageError("--max-drop needs --data with 'targets', or --eval")
    parts: list[Samples | None] = [None] * 3 if samples is None else list(samples.split(*SHARES))
    if any(part is not None and not len(part.inputs) for part in parts):
        raise EvaluationError(
            f"{harness.evaluation.data}: too few samples to divide between search, confirmation "
            "and report"
        )
    searched, confirmed, rest = parts
    # The guard watches the user's own score if there is one, else accuracy.
    before = [
        measure(dense, part, function, reading, batch=task.batch) for part in (searched, confirmed)
    ]

    def within(size: int, part: Samples | None, reference: Scores) -> bool:
        network = build(harness, make(size))
        scores = measure(network, part, function, reading, reference, batch=task.batch)
        drop = _drop(reference, scores)
        _LOGGER.info("with %d parameters, %.3g is lost", size, drop)
        return drop <= max_drop

    size = smallest(
        sizes, lambda n: within(n, searched, before[0]), lambda n: within(n, confirmed, before[1])
    )
    counts = (0 if part is None else len(part.inputs) for part in (searched, confirmed))
    return SearchResult(size, *counts), rest


def _drop(before: Scores, after: Scores) -> float:
    """What the second network loses against the first, in the guarded measure."""
    if before.score is not None and after.score is not None:
        return before.score - after.score
    assert before.accuracy is not None
    assert after.accuracy is not None
    return before.accuracy - after.accuracy
