"""Check that a dense network does what it is said to do, before anything is derived from it."""

from __future__ import annotations

import math

from rmtcli.errors import EvaluationError
from rmtcli.evaluation.comparison import Scores
from rmtcli.evaluation.harness import Harness
from rmtcli.evaluation.network import build
from rmtcli.evaluation.score import measure
from rmtcli.evaluation.tasks import Rows

#: Number of batches that a dense network is tried on.
BATCHES = 4
#: Standard errors by which an accuracy must be below chance.
ERRORS = 4
#: Factor by which a perplexity must exceed that of a guess. A network that is too sure of itself on
#: unusual text exceeds it by less.
EXCESS = 10


def check_sense(harness: Harness) -> None:
    """Make sure that a dense network is not worse than chance at its task.

    A network that is measured in the wrong way can be compressed with no loss at all: nothing was
    there to lose. So a few batches of the samples are tried first. A checkpoint that this program
    wrote may have been compressed too far, and is not checked.

    Raises:
        EvaluationError: it is worse than chance, or cannot be built or fed.
    """
    samples, task = harness.samples, harness.task
    compressed = harness.checkpoint.manifest is not None
    if samples is None or samples.targets is None or task.rows is not Rows.CLASSES or compressed:
        return
    few = samples.some(BATCHES * task.batch)
    scores = measure(build(harness), few, None, task)
    words = _worse_than_chance(scores, len(few.inputs))
    if words is not None:
        raise EvaluationError(f"{samples.path}: the dense network is worse than chance: {words}")


def _worse_than_chance(scores: Scores, samples: int) -> str | None:
    """What a network scored, what chance would, and what may be wrong; None if it is not worse."""
    accuracy, classes = scores.accuracy, scores.classes
    assert accuracy is not None
    assert classes is not None
    if scores.perplexity is not None:
        if scores.perplexity <= EXCESS * classes:
            return None
        return (
            f"its perplexity is {scores.perplexity:,.0f}, and that of a guess among "
            f"{classes:,} tokens is {classes:,}: is this its --task, its tokenizer, and text of "
            "the kind that it was trained on?"
        )
    chance = 1 / classes
    error = math.sqrt(chance * (1 - chance) / samples)
    if accuracy >= 100 * (chance - ERRORS * error):
        return None
    return (
        f"it is right for {accuracy:.1f} % of {samples:,} samples, and a guess among {classes:,} "
        f"classes for {100 * chance:.1f} %: are the targets numbered as its outputs are, and the "
        "inputs prepared as for its training?"
    )
