"""Accuracy against size, from one decomposition per layer."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from rmtcli.calibration import Calibrated, Calibration
from rmtcli.checkpoint import Checkpoint, Openable, open_checkpoint
from rmtcli.errors import UsageError
from rmtcli.evaluation import Evaluation
from rmtcli.layers import Selection
from rmtcli.layouts import LAYOUTS
from rmtcli.pipeline.calibrate import calibration_source, check_calibration, input_files
from rmtcli.pipeline.decide import AnyAllocation, accuracy_drop, allocate, at_size
from rmtcli.pipeline.fits import Track
from rmtcli.pipeline.prepare import prepare
from rmtcli.pipeline.prepared import Prepared
from rmtcli.pipeline.request import Request
from rmtcli.planning import Budget, Goal, size_within
from rmtcli.report.base import Report
from rmtcli.report.curve import Point
from rmtcli.report.notes import on_chance

_LOGGER = logging.getLogger(__name__)

#: Sizes that are measured by default, as shares of all parameters.
SIZES = tuple(f"{share}%" for share in (80, 60, 40, 30, 20, 15, 10, 7, 5, 4, 3, 2))


def curve(
    model: Openable,
    *,
    key: str | None = None,
    sizes: Sequence[str] = (),
    edge: str = "select",
    layout: str = "factored",
    rank_multiple: int = 1,
    share_inputs: bool = False,
    per_block: bool = False,
    selection: Selection | None = None,
    evaluation: Evaluation,
    calibration: Calibration | None = None,
    cache: str | Path | None = None,
    track: Track = iter,
) -> Report:
    """Measure networks of several sizes; nothing is written.

    Each size is a budget, and gives the ranks and factors that ``prune`` gives for it. All points
    are measured on the same samples, so that their differences are known better than the points
    themselves. Confirm a size that you pick on the curve on other samples, as ``prune`` with
    ``max_drop`` does.

    Args:
        model: a torch module, a state dict, or the path of a checkpoint.
        key: which state dict, where a torch file holds several, such as ``ema`` or
            ``state.generator``.
        sizes: budgets in parameters, such as ``"10%"``; by default those of :data:`SIZES` that
            the checkpoint can meet.
        edge: edge estimator with options.
        layout: how pruned layers are stored; ``prune`` lists the layouts.
        rank_multiple: ranks are multiples of it.
        share_inputs: layers that read the same input share a right factor.
        per_block: whether each hidden layer of a directory gets a width of its own.
        selection: which matrices are layers.
        evaluation: how to score.
        calibration: how to calibrate; by default on the training part of the evaluation's data, if
            it has one, or, of a directory whose network reads text, on random tokens.
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
    checkpoint = open_checkpoint(model, key=key)
    harness = evaluation.resolve(checkpoint)
    calibration = calibration_source(calibration or Calibration(), harness, joint=True)
    check_calibration(calibration, input_files(model, evaluation.data, calibration))
    # Any budget makes ranks joint, so that the layers are held; the sizes follow below.
    budget = Budget("100%")
    goal = Goal("auto", budget, None, rank_multiple, share_inputs=share_inputs, per_block=per_block)
    request = Request(
        goal,
        edge,
        LAYOUTS.parse(layout),
        selection,
        calibration,
        cache=cache,
        track=track,
    )
    prepared = prepare(harness, request)
    points, notes = _measure(prepared, sizes)
    return Report(
        "curve",
        prepared.source,
        edge=prepared.method.edge,
        keep=prepared.method.keep,
        made_by=prepared.method.made_by,
        layout=prepared.method.layout,
        calibrated=_calibrated(prepared, points),
        curve=tuple(points),
        notes=(
            *on_chance(points[0].comparison),
            *prepared.notes,
            *notes,
            *prepared.harness.notes,
        ),
    )


def _calibrated(prepared: Prepared, points: Sequence[Point]) -> Calibrated | None:
    """The calibration, with the refinements that were undone in every network."""
    undone = set.intersection(*(set(point.undone) for point in points))
    calibrated = prepared.calibrated
    return calibrated and replace(calibrated, undone=tuple(sorted(undone)))


def _measure(prepared: Prepared, sizes: Sequence[str]) -> tuple[list[Point], list[str]]:
    """A network of each size with its scores, and what a user should know about them."""
    from rmtcli.evaluation.score import Scorer  # needs torch

    checkpoint, allocation = prepared.checkpoint, allocate(prepared)
    budgets = _budgets(checkpoint, allocation, sizes)
    scorer = prepared.scorer or Scorer(prepared.harness, prepared.harness)
    points, notes = [], []
    for i, budget in enumerate(budgets, 1):
        _LOGGER.info("network %d of %d: %s of the parameters", i, len(budgets), budget.text)
        size = size_within(checkpoint, allocation, budget)
        result = at_size(prepared, allocation, size)
        comparison = scorer.compare(result.network, result.unhealed)
        notes += [f"{budget.text}: {note}" for note in result.notes]
        pruned = result.planned.pruned
        ranks = {plan.layer.name: plan.rank for plan in pruned if plan.ranked}
        shapes = {plan.layer.name: plan.narrowed for plan in pruned if plan.narrowed is not None}
        drop = accuracy_drop(comparison)
        error = None if drop is None else drop.error
        values = result.network.parameters, ranks, shapes
        points.append(Point(*values, comparison, error, result.undone))
    return points, notes


def _budgets(
    checkpoint: Checkpoint, allocation: AnyAllocation, sizes: Sequence[str]
) -> list[Budget]:
    """The sizes, largest first; of the default sizes, those that can be met."""
    budgets = [Budget(text) for text in sizes or SIZES]
    if not sizes:
        budgets = [b for b in budgets if b.amount(allocation.total) >= allocation.least]
    if not budgets:
        raise UsageError(
            f"{checkpoint.path}: none of {', '.join(SIZES)} can be met: name sizes with --size"
        )
    return sorted(budgets, key=lambda b: -b.amount(allocation.total))
