"""Score a checkpoint, on its own or against another."""

from __future__ import annotations

import numpy as np

from rmtcli.checkpoint import Openable, open_checkpoint
from rmtcli.errors import EvaluationError, UsageError
from rmtcli.evaluation import Evaluation, Harness
from rmtcli.options import option
from rmtcli.pipeline.stages import describe
from rmtcli.report.base import Report


def evaluate(
    model: Openable,
    *,
    key: str | None = None,
    evaluation: Evaluation,
    against: Openable | None = None,
) -> Report:
    """Score a checkpoint, factored or dense, on its own or against another.

    Args:
        model: a torch module, a state dict, or the path of the checkpoint to score.
        key: which state dict, in both files, where a torch file holds several.
        evaluation: how to score it.
        against: the dense network to compare with.

    Raises:
        UsageError: a wrong option or path, or nothing to evaluate with.
        CheckpointError: a file cannot be read, or does not fit the network.
        EvaluationError: the network cannot be built, fed or scored, the dense one is worse than
            chance at its task, or the two have other tokens.
    """
    if not evaluation.measures:
        raise UsageError(f"nothing to evaluate on: give {option('data')} or {option('eval')}")
    from rmtcli.evaluation.score import Scorer  # needs torch

    checkpoint = open_checkpoint(model, key=key)
    reference = None if against is None else open_checkpoint(against, key=key)
    harness = evaluation.resolve(checkpoint)
    dense = None if reference is None else evaluation.resolve(reference)
    if dense is not None:
        _check_tokens(harness, dense)
    comparison = Scorer(harness, dense).compare(checkpoint)
    return Report(
        "evaluate",
        describe(checkpoint),
        reference=None if reference is None else describe(reference),
        comparison=comparison,
        notes=harness.notes,
    )


def _check_tokens(harness: Harness, dense: Harness) -> None:
    """Make sure that the tokens of one directory's tokenizer are those of another's.

    Raises:
        EvaluationError: some have another number, or the samples are divided in another way.
    """
    if harness.evaluation.data is None or not (harness.pretrained and dense.pretrained):
        return
    try:
        own, other = (item.tokenizer().get_vocab() for item in (harness, dense))
    except EvaluationError:  # a network of images, or one that lacks a tokenizer
        return
    if own == other:
        return
    a, b = harness.samples, dense.samples
    if a is None or b is None or np.array_equal(a.inputs, b.inputs):
        return
    raise EvaluationError(
        f"{dense.checkpoint.path}: its tokenizer gives other token numbers than that of "
        f"{harness.checkpoint.path}, so the two cannot read the same samples: compare with a "
        f"directory of the same tokens, or leave out {option('against')}"
    )
