"""A checkpoint made ready for pruning, and what comes out for one choice of ranks."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from rmtcli.calibration import Calibration
from rmtcli.checkpoint import Checkpoint, Edited
from rmtcli.computing import Cluster
from rmtcli.errors import LayerError, UsageError
from rmtcli.evaluation import Comparison, Evaluation, Harness
from rmtcli.evaluation.data import has_training_part
from rmtcli.layers import Layer, Selection, Skipped
from rmtcli.layouts import LAYOUTS, Factored, Layout, Replacements
from rmtcli.pipeline import stages as assemble
from rmtcli.pipeline.calibrated import calibrated
from rmtcli.pipeline.stages import Track
from rmtcli.planning import (
    Allocation,
    Fitted,
    Goal,
    LayerCalibration,
    PairedDrop,
    Plan,
    RankChooser,
    Times,
    allocation_of,
    approximated,
    by_plan,
    by_rule,
    check_plan,
    paired_drop,
    sibling_groups,
    timed_allocation,
    under_budget,
)
from rmtcli.report.base import Report
from rmtcli.report.notes import NO_SIBLINGS
from rmtcli.spectra import Factors

#: Reasons for which nothing is to be written, given what would be.
Refuse = Callable[[Report], Sequence[str]]


@dataclass(frozen=True, slots=True, eq=False)
class Result:
    """What becomes of a checkpoint.

    Attributes:
        report: every layer's fate, with its factors.
        pruned: the checkpoint with these factors.
        unhealed: the same before healing, or None where nothing was healed.
    """

    report: Report
    pruned: Edited
    unhealed: Edited | None


@dataclass(frozen=True, slots=True, eq=False)
class Job:
    """A checkpoint with its layers fitted.

    Attributes:
        harness: the dense network, and how it is built, fed and scored.
        report: the options, and no layers yet.
        fits: the layers; they can be run through once only, unless they are a list.
        data: what calibration found out, or None where nothing was calibrated.
        calibration: how to calibrate and refine.
        notes: what a reader must know of all results.
        cluster: where factors are made, if not here.
    """

    harness: Harness
    report: Report
    fits: Iterable[Fitted | Skipped]
    data: Mapping[str, LayerCalibration] | None
    calibration: Calibration
    notes: tuple[str, ...] = ()
    cluster: Cluster | None = None

    @property
    def checkpoint(self) -> Checkpoint:
        """The dense network's checkpoint."""
        return self.harness.checkpoint

    @property
    def fitted(self) -> list[Fitted]:
        """The layers that have a spectrum."""
        return [item for item in self.fits if isinstance(item, Fitted)]

    def result(self, choice: RankChooser) -> Result:
        """What becomes of the checkpoint with these ranks.

        Raises:
            LayerError: a layer that holds values that are not finite.
        """
        assert self.report.layout is not None
        refines = self.calibration.refines and self.data is not None
        splitter = None if refines else Replacements(self.checkpoint, self.report.layout)
        report = assemble.decided(
            self.report, self.checkpoint, self.fits, choice, splitter, self.cluster
        )
        assemble.refuse_not_finite(self.checkpoint.path, report.skipped)
        if not (refines and report.pruned and self.data is not None):
            return Result(report, assemble.edited(report, self.checkpoint, splitter), None)
        from rmtcli.running.refine import refine  # needs torch

        split = assemble.edited(replace(report, layout=Factored()), self.checkpoint)
        found = refine(self.harness, split, report.pruned, self.data, self.calibration)
        unhealed = None
        if self.calibration.heal:
            unhealed = assemble.edited(_with_factors(report, found.unhealed), self.checkpoint)
        report = replace(_with_factors(report, found.factors), notes=found.notes)
        return Result(report, assemble.edited(report, self.checkpoint), unhealed)


def prepare(
    action: str,
    harness: Harness,
    goal: Goal,
    *,
    edge: str,
    layout: Layout,
    selection: Selection | None,
    calibration: Calibration,
    cache: str | Path | None = None,
    cluster: Cluster | None = None,
    track: Track,
) -> Job:
    """Find the layers, calibrate if there is something to calibrate on, and fit them.

    The layers come as a list where their ranks are decided at once or siblings share a factor, and
    else one at a time.

    Raises:
        UsageError: a wrong option, or two that cannot be combined.
        LayerError: no layers, or a plan that is not for them.
        EvaluationError: the network cannot be built or fed.
    """
    checkpoint = harness.checkpoint
    report = assemble.started(action, checkpoint, edge, goal.keep, layout)
    report = replace(report, budget=goal.budget, made_by=goal.words)
    found = assemble.layers_of(checkpoint, selection)
    if goal.plan is not None:
        check_plan(goal.plan, checkpoint, found, layout)
    shares = goal.share_inputs or bool(goal.plan and goal.plan.groups)
    if shares:
        _check_sharing(calibration, layout)
    data = None
    if calibration.data is not None or calibration.stats is not None:
        if cluster is not None:
            raise UsageError(
                "--executor computes layers from their weights alone: leave out --calib, --stats "
                "and, with a budget or limit, the training part of --data"
            )
        ranks = None if goal.plan is None else goal.plan.ranks
        layers = [
            item
            for item in found
            if isinstance(item, Layer) and (not item.head if ranks is None else item.name in ranks)
        ]
        data, done = calibrated(harness, report.source.sha256, layers, calibration)
        report = replace(report, calibrated=done)
    fits: Iterable[Fitted | Skipped] = assemble.fits(
        found,
        edge,
        data,
        track=track,
        approximate=not shares,
        # The record of a plan that is applied holds the hashes already.
        hashed=action == "prune" and goal.plan is None,
        cache=cache,
        device=harness.evaluation.device,
        cluster=cluster,
    )
    if not (goal.joint or shares):
        return Job(harness, report, fits, data, calibration, cluster=cluster)
    fits = list(fits)
    assemble.refuse_not_finite(checkpoint.path, fits)
    notes: tuple[str, ...] = ()
    if shares and data is not None:
        fitted = [item for item in fits if isinstance(item, Fitted)]
        groups = sibling_groups(fitted, data, checkpoint.infos.keys(), layout)
        notes = () if groups else (NO_SIBLINGS,)
        if goal.plan is not None:
            groups = _planned(checkpoint, goal.plan, groups)
        fits = approximated(fits, data, groups)
    return Job(harness, report, fits, data, calibration, notes, cluster)


def _check_sharing(calibration: Calibration, layout: Layout) -> None:
    """Make sure that layers can share right factors.

    Raises:
        UsageError: they cannot.
    """
    if calibration.data is None and calibration.stats is None:
        raise UsageError(
            "--share-inputs has to see which layers read the same input: give inputs with --calib"
        )
    if calibration.sequential:
        raise UsageError(
            "--share-inputs and --sequential exclude each other: a sequential fit gives each layer "
            "factors of its own; --heal does not"
        )
    if not layout.shared_parts:
        raise UsageError(
            f"--share-inputs and --layout {LAYOUTS.spell(layout)} exclude each other: nothing is "
            "shared"
        )


def _planned(checkpoint: Checkpoint, plan: Plan, known: Mapping[str, str]) -> dict[str, str]:
    """The groups of a plan.

    Raises:
        LayerError: layers in one of them that do not read the same input.
    """
    groups = plan.groups
    for name, first in groups.items():
        if known.get(name) is None or known[name] != known.get(first):
            raise LayerError(
                f"{checkpoint.path}: the plan's layer '{name}' cannot share its right factor "
                f"with '{first}': they do not read the same input, or are stored in different ways"
            )
    return groups


def decided(job: Job, goal: Goal) -> Result:
    """The result for ranks that need no measurement: by plan, keep rule or budget."""
    if goal.plan is not None:
        return job.result(by_plan(goal.plan, job.data))
    if goal.budget is None:
        return job.result(by_rule(goal.keep, job.data))
    if goal.budget.unit == "ms":
        allocation = _timed(job, goal)
    else:
        allocation = allocation_of(job.checkpoint, job.fitted, job.data, goal)
    return job.result(under_budget(job.checkpoint, allocation, goal.budget, job.data))


def _timed(job: Job, goal: Goal) -> Allocation:
    """The layers that share a budget of time, with the times of their factors measured here."""
    from rmtcli.running.clock import Clock

    assert goal.batch is not None
    clock = Clock(goal.batch, job.harness.evaluation.device)

    def times(layer: Layer) -> Times:
        return clock.times(layer.shape, layer.dtype)

    return timed_allocation(job.checkpoint, job.fitted, job.data, goal, times)


def calibration_source(
    calibration: Calibration, evaluation: Evaluation, *, joint: bool
) -> Calibration:
    """Where inputs are needed and none are named, they are the training part of the data."""
    data, stats = evaluation.data, calibration.stats
    missing = joint if stats is None else not Path(stats).exists()
    wanted = calibration.data is None and (missing or calibration.refines)
    if wanted and data is not None and has_training_part(data):
        return replace(calibration, data=data)
    return calibration


def paired(comparison: Comparison) -> PairedDrop | None:
    """The accuracy lost, sample by sample; None where there is no right or wrong."""
    samples, before, after = comparison.samples, comparison.before, comparison.after
    if samples is None or samples.targets is None or before is None:
        return None
    targets = samples.targets.reshape(-1)
    right = [np.asarray(scores.predictions == targets) for scores in (before, after)]
    return paired_drop(*right)


def _with_factors(report: Report, factors: Mapping[str, Factors]) -> Report:
    plans = (
        replace(plan, factors=factors[plan.layer.name]) if plan.untouched is None else plan
        for plan in report.layers
    )
    return replace(report, layers=tuple(plans))
