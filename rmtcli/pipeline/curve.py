"""Accuracy against size, from one decomposition a layer."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from rmtcli.calibration import Calibration
from rmtcli.checkpoint import Checkpoint, open_checkpoint
from rmtcli.errors import UsageError
from rmtcli.evaluation import Evaluation
from rmtcli.layers import Selection
from rmtcli.layouts import Factored
from rmtcli.pipeline.calibrated import check_calibration
from rmtcli.pipeline.job import calibration_source, paired, prepare
from rmtcli.pipeline.stages import Track
from rmtcli.planning import Allocation, Budget, Goal, allocation_of, under_budget
from rmtcli.report.base import Report
from rmtcli.report.curve import Point

_LOGGER = logging.getLogger(__name__)

#: Sizes that are measured where none are named, in percent of all parameters.
SIZES = tuple(f"{share}%" for share in (80, 60, 40, 30, 20, 15, 10, 7, 5, 4, 3, 2))


def curve(
    path: str | Path,
    *,
    sizes: Sequence[str] = (),
    edge: str = "select",
    rank_multiple: int = 1,
    share_inputs: bool = False,
    selection: Selection | None = None,
    evaluation: Evaluation,
    calibration: Calibration | None = None,
    cache: str | Path | None = None,
    track: Track = iter,
) -> Report:
    """Measure networks of several sizes; nothing is written.

    Each size is a budget of ``prune``: the same ranks and factors come out. All points are measured
    on the same samples, so their differences are known better than they are themselves; a size that
    was picked on the curve should be confirmed on other samples, as ``prune`` with ``max_drop``
    does.

    Args:
        path: the checkpoint.
        sizes: budgets in parameters, such as ``"10%"``; :data:`SIZES` as far as the checkpoint
            allows by default.
        edge: edge estimator with options.
        rank_multiple: ranks are multiples of it.
        share_inputs: layers that read the same input share a right factor.
        selection: which matrices are layers.
        evaluation: how to score.
        calibration: how to find out what the layers see; by default on the training part of the
            evaluation's data, if it has one.
        cache: folder in which decompositions are kept and looked up; none by default.
        track: wraps the iteration over layers, for progress.

    Raises:
        UsageError: a wrong option or path, a size that cannot be met, or nothing to measure with.
        CheckpointError: the file cannot be read.
        LayerError: no layers.
        EvaluationError: the network cannot be built, fed or scored.
    """
    if not evaluation.measures:
        raise UsageError("nothing to evaluate on: give --data or --eval")
    calibration = calibration_source(calibration or Calibration(), evaluation, joint=True)
    checkpoint = open_checkpoint(path)
    files = (path, evaluation.data, calibration.data, calibration.stats)
    check_calibration(calibration, [Path(file) for file in files if file])
    # A budget makes the layers a list; which one plays no part.
    goal = Goal("auto", Budget("100%"), None, rank_multiple, share_inputs=share_inputs)
    job = prepare(
        "curve",
        evaluation.resolve(checkpoint),
        goal,
        edge=edge,
        layout=Factored(),
        selection=selection,
        calibration=calibration,
        cache=cache,
        track=track,
    )
    allocation = allocation_of(checkpoint, job.fitted, job.data, goal)
    budgets = _budgets(checkpoint, allocation, sizes)
    from rmtcli.evaluation.score import Scorer

    scorer, points, notes = Scorer(job.harness, job.harness), [], []
    for i, budget in enumerate(budgets, 1):
        _LOGGER.info("network %d of %d: %s of the parameters", i, len(budgets), budget.text)
        result = job.result(under_budget(checkpoint, allocation, budget, job.data))
        comparison = scorer.compare(result.pruned, result.unhealed)
        notes += [f"{budget.text}: {note}" for note in result.report.notes]
        ranks = {plan.layer.name: plan.rank for plan in result.report.pruned}
        drop = paired(comparison)
        points.append(
            Point(result.pruned.parameters, ranks, comparison, None if drop is None else drop.error)
        )
    return replace(job.report, budget=None, curve=tuple(points), notes=(*job.notes, *notes))


def _budgets(checkpoint: Checkpoint, allocation: Allocation, sizes: Sequence[str]) -> list[Budget]:
    """The sizes, largest first; of those that nobody asked for, the ones that can be met."""
    budgets = [Budget(text) for text in sizes or SIZES]
    if not sizes:
        budgets = [b for b in budgets if b.amount(allocation.total) >= allocation.least]
    if not budgets:
        raise UsageError(
            f"{checkpoint.path}: none of {', '.join(SIZES)} can be met: name sizes with --size"
        )
    return sorted(budgets, key=lambda b: -b.amount(allocation.total))
