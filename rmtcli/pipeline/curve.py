"""Accuracy against size, from one decomposition per layer."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from rmtcli.calibration import Calibrated, Calibration
from rmtcli.checkpoint import Checkpoint, Openable, open_checkpoint
from rmtcli.computing import connected
from rmtcli.computing.gradients import outside_inference_mode
from rmtcli.errors import UsageError
from rmtcli.evaluation import Evaluation
from rmtcli.layers import Selection
from rmtcli.layouts import LAYOUTS
from rmtcli.options import option
from rmtcli.pipeline.calibrate import calibration_source
from rmtcli.pipeline.decide import accuracy_drop, allocate, at_size, stored_in_bits
from rmtcli.pipeline.fits import Track
from rmtcli.pipeline.inputs import check_calibration, input_files
from rmtcli.pipeline.prepare import prepare
from rmtcli.pipeline.prepared import Prepared
from rmtcli.pipeline.request import Request, bits_of
from rmtcli.planning import Budget, Goal, size_within
from rmtcli.report.base import Report
from rmtcli.report.curve import Point
from rmtcli.report.notes import on_chance

_LOGGER = logging.getLogger(__name__)

#: Sizes that are measured by default, as shares of all parameters.
SIZES = tuple(f"{share}%" for share in (80, 60, 40, 30, 20, 15, 10, 7, 5, 4, 3, 2))
#: Those of networks in few bits, as shares of all bytes.
SIZES_IN_BYTES = tuple(f"{share:g}%" for share in (25, 20, 15, 12, 10, 8, 6, 5, 4, 3, 2, 1.5))


@outside_inference_mode
def curve(
    model: Openable,
    *,
    key: str | None = None,
    sizes: Sequence[str] = (),
    edge: str = "select",
    layout: str = "factored",
    bits: int | str | None = None,
    rank_multiple: int | None = None,
    share_inputs: bool = False,
    per_block: bool = False,
    selection: Selection | None = None,
    evaluation: Evaluation,
    calibration: Calibration | None = None,
    cache: str | Path | None = None,
    executor: str | None = None,
    track: Track = iter,
) -> Report:
    """Measure networks of several sizes; nothing is written.

    Each size is a budget, and gives the ranks, factors and bits that ``prune`` gives for it; if the
    smallest needs a directory's tables of tokens, all take them. All points are measured on the
    same samples, so that their differences are known better than the points themselves. Confirm a
    size that you pick on the curve on other samples, as ``prune`` with ``max_drop`` does.

    Args:
        model: a torch module, a state dict, or the path of a checkpoint.
        key: which state dict, where a torch file holds several, such as ``ema`` or
            ``state.generator``.
        sizes: budgets in parameters, or with ``bits`` in bytes, such as ``"10%"``; by default those
            of :data:`SIZES` or :data:`SIZES_IN_BYTES` that the checkpoint can meet.
        edge: edge estimator with options.
        layout: how pruned layers are stored; ``prune`` lists the layouts.
        bits: bits per entry of all matrices, or ``"auto"`` for a choice for each within the size;
            ``"none"`` or None for the types that they have.
        rank_multiple: ranks are multiples of it.
        share_inputs: layers that read the same input share a right factor.
        per_block: whether each hidden layer of a directory gets a width of its own.
        selection: which matrices are layers.
        evaluation: how to score.
        calibration: how to calibrate; by default on the training part of the evaluation's data, if
            it has one, or, of a directory whose network reads text, on random tokens.
        cache: folder in which decompositions are kept and looked up; none by default.
        executor: ``dask://host:port`` of a cluster that calibrates and decomposes; its workers must
            reach the checkpoint, the data and the cache under the same paths. Networks are measured
            here.
        track: wraps the iteration over layers, for progress.

    Raises:
        UsageError: a wrong option or path, a size that cannot be met, or nothing to measure with.
        CheckpointError: the file cannot be read.
        LayerError: no layers.
        EvaluationError: the network cannot be built, fed or scored.
        ClusterError: the cluster was lost.
    """
    if not evaluation.measures:
        raise UsageError(f"nothing to evaluate on: give {option('data')} or {option('eval')}")
    checkpoint = open_checkpoint(model, key=key)
    harness = evaluation.resolve(checkpoint)
    calibration = calibration_source(calibration or Calibration(), harness, joint=True)
    check_calibration(calibration, input_files(model, evaluation.data, calibration), harness)
    few = bits_of(bits)
    budgets = _budgets(checkpoint, sizes, "parameters" if few is None else "bytes")
    goal = Goal("auto", budgets[-1], None, rank_multiple, None, share_inputs, None, per_block)
    with connected(executor) as cluster:
        options = selection, calibration, cache, cluster, track
        request = Request(goal, edge, LAYOUTS.parse(layout), *options, bits=few)
        prepared = prepare(harness, request)
        points, notes = _measure(prepared, budgets, every=bool(sizes))
    return Report(
        "curve",
        prepared.source,
        edge=prepared.method.edge,
        keep=prepared.method.keep,
        made_by=prepared.method.made_by,
        layout=prepared.method.layout,
        calibrated=_calibrated(prepared, points),
        curve=tuple(points),
        bits=few,
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


def _measure(
    prepared: Prepared, budgets: Sequence[Budget], *, every: bool
) -> tuple[list[Point], list[str]]:
    """A network of each size with its scores, and what a user should know about them.

    Args:
        prepared: the dense network.
        budgets: the sizes, largest first.
        every: whether it is an error that one of them cannot be met.
    """
    from rmtcli.evaluation.score import Scorer  # needs torch

    checkpoint, allocation = prepared.checkpoint, allocate(prepared)
    met = [b for b in budgets if every or b.amount(allocation.total) >= allocation.least]
    if not met:
        texts = ", ".join(b.text for b in budgets)
        raise UsageError(
            f"{checkpoint.path}: none of {texts} can be met: name sizes with {option('size')}"
        )
    scorer = prepared.scorer or Scorer(prepared.harness, prepared.harness)
    points, notes = [], []
    for i, budget in enumerate(met, 1):
        _LOGGER.info("network %d of %d: %s", i, len(met), budget.words)
        size = size_within(checkpoint, allocation, budget, prepared.calibrations)
        result = at_size(prepared, allocation, size)
        notes += [f"{budget.text}: {note}" for note in result.notes]
        result = stored_in_bits(prepared, result)
        comparison = scorer.compare(result.network, result.unhealed, certify=False)
        pruned = result.planned.pruned
        ranks = {plan.layer.name: plan.rank for plan in pruned if plan.ranked}
        shapes = {plan.layer.name: plan.narrowed for plan in pruned if plan.narrowed is not None}
        drop = accuracy_drop(comparison)
        error = None if drop is None else drop.error
        values = result.network.parameters, result.network.bytes, ranks, shapes
        points.append(Point(*values, comparison, error, result.undone))
    return points, notes


def _budgets(checkpoint: Checkpoint, sizes: Sequence[str], unit: str) -> list[Budget]:
    """The sizes, or those that are measured by default, largest first.

    Raises:
        UsageError: one cannot be read.
    """
    in_bytes = unit == "bytes"
    total = checkpoint.bytes if in_bytes else checkpoint.parameters
    budgets = [Budget(text, unit) for text in sizes or (SIZES_IN_BYTES if in_bytes else SIZES)]
    return sorted(budgets, key=lambda budget: -budget.amount(total))
