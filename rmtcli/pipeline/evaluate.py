"""Score a checkpoint, on its own or against another."""

from __future__ import annotations

from rmtcli.checkpoint import Openable, open_checkpoint
from rmtcli.errors import UsageError
from rmtcli.evaluation import Evaluation
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
        EvaluationError: the network cannot be built, fed or scored, or the dense one is worse than
            chance at its task.
    """
    if not evaluation.measures:
        raise UsageError("nothing to evaluate on: give --data or --eval")
    from rmtcli.evaluation.score import Scorer  # needs torch

    checkpoint = open_checkpoint(model, key=key)
    reference = None if against is None else open_checkpoint(against, key=key)
    harness = evaluation.resolve(checkpoint)
    dense = None if reference is None else evaluation.resolve(reference)
    comparison = Scorer(harness, dense).compare(checkpoint)
    return Report(
        "evaluate",
        describe(checkpoint),
        reference=None if reference is None else describe(reference),
        comparison=comparison,
        notes=harness.notes,
    )
