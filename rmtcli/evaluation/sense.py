"""Check that a dense network does what it is said to do, before anything is derived from it.

A network that is measured in the wrong way can be compressed with no loss at all: nothing was there
to lose. A checkpoint that this program wrote may have been compressed too far, and is not checked.
"""

from __future__ import annotations

import math

from rmtcli.arrays import FloatArray
from rmtcli.errors import EvaluationError
from rmtcli.evaluation.data import Samples
from rmtcli.evaluation.reading import Rows
from rmtcli.evaluation.scores import Scores
from rmtcli.options import option

#: Standard errors by which an accuracy must be below chance.
ERRORS = 4
#: Factor by which a perplexity must exceed that of a guess. A network that is too sure of itself on
#: unusual text exceeds it by less.
EXCESS = 10


def check_scores(scores: Scores, samples: Samples, rows: Rows) -> None:
    """Make sure that a dense network is not worse than chance at its task.

    Args:
        scores: its scores.
        samples: what they were measured on.
        rows: what a row of its outputs is.

    Raises:
        EvaluationError: it is worse than chance.
    """
    words = _worse_than_chance(scores, len(samples.inputs), rows)
    if words is not None:
        raise EvaluationError(f"{samples.path}: the dense network is worse than chance: {words}")


def no_better_than_chance(scores: Scores, rows: Rows) -> bool:
    """Whether what a dense network gets right may be chance, so that there is nothing to lose.

    It is if the accuracy is less than :data:`ERRORS` standard errors above a guess among its
    classes, or the perplexity is not below that of a guess.
    """
    chance = _chance(scores, rows)
    if scores.perplexity is not None and scores.classes is not None:
        return scores.perplexity >= scores.classes
    if scores.accuracy is None or scores.merits is None or chance is None:
        return False
    return scores.accuracy <= 100 * (chance + ERRORS * _error(chance, scores.merits, rows))


def _chance(scores: Scores, rows: Rows) -> float | None:
    """The quality of a guess; None where there is no such thing."""
    if rows is Rows.CLASSES:
        return None if scores.classes is None or scores.classes < 2 else 1 / scores.classes
    return {Rows.LABELS: 0.5, Rows.VALUES: 0.0}.get(rows)


def _error(chance: float, merits: FloatArray, rows: Rows) -> float:
    """Standard error of the quality: of a guess among classes, else as the samples vary."""
    variance = chance * (1 - chance) if rows is Rows.CLASSES else float(merits.var())
    return math.sqrt(variance / len(merits))


def _worse_than_chance(scores: Scores, samples: int, rows: Rows) -> str | None:
    """What a network scored, what chance would, and what may be wrong; None if it is not worse."""
    accuracy, classes, chance = scores.accuracy, scores.classes, _chance(scores, rows)
    if scores.perplexity is not None and classes is not None:
        if scores.perplexity <= EXCESS * classes:
            return None
        return (
            f"its perplexity is {scores.perplexity:,.0f}, and that of a guess among {classes:,} "
            f"tokens is {classes:,}: is this its {option('task')}, its tokenizer, and text of the "
            "kind that it was trained on?"
        )
    if accuracy is None or scores.merits is None or chance is None:
        return None
    if accuracy >= 100 * (chance - ERRORS * _error(chance, scores.merits, rows)):
        return None
    if rows is Rows.VALUES:
        return (
            f"its R² is {accuracy / 100:.3g} on {samples:,} samples, and that of the mean of the "
            "targets is 0: are the targets scaled, and the inputs prepared, as for its training?"
        )
    if rows is Rows.LABELS:
        return (
            f"it is right for {accuracy:.1f} % of the labels of {samples:,} samples, and a coin "
            "for 50 %: are the targets in the order of its outputs, and the inputs prepared as for "
            "its training?"
        )
    return (
        f"it is right for {accuracy:.1f} % of {samples:,} samples, and a guess among {classes:,} "
        f"classes for {100 * chance:.1f} %: are the targets numbered as its outputs are, and the "
        "inputs prepared as for its training?"
    )
