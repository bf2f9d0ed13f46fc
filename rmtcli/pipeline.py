"""The whole run, from file to file: the only place where the stages meet."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from rmtcli import assemble, edits
from rmtcli.allocate import Budget
from rmtcli.calibration.base import Calibration
from rmtcli.checkpoint import (
    Checkpoint,
    Edited,
    check_target,
    container_of,
    open_checkpoint,
    write_checkpoint,
)
from rmtcli.decide import Choice, Goal, allocation_of, by_rule, under_budget, within_limit
from rmtcli.edges import EDGES
from rmtcli.errors import UsageError
from rmtcli.evaluation.base import Comparison, Evaluation
from rmtcli.evaluation.data import has_training_part
from rmtcli.keep import KEEP_RULES
from rmtcli.layers import Layer, Selection, Skipped
from rmtcli.plan import Data, Fitted, Layout
from rmtcli.report.base import Report, Source
from rmtcli.report.notes import on_cost, on_extras

#: Passes the layers on one by one; a caller may watch them go by.
Track = Callable[[Sequence[Layer | Skipped]], Iterable[Layer | Skipped]]


def analyze(
    path: str | Path,
    *,
    edge: str = "bema",
    selection: Selection | None = None,
    track: Track = iter,
) -> Report:
    """Fit the noise of every fully connected layer; nothing is written.

    Each layer also shows what ``prune`` with ``keep="auto"`` would do with it.

    Args:
        path: a ``.safetensors``, ``.pt``, ``.pth``, ``.bin`` or ``.ckpt`` file.
        edge: edge estimator with options, such as ``"bema:alpha=0.25"``.
        selection: which matrices are layers.
        track: wraps the iteration over layers, for progress.

    Raises:
        UsageError: a wrong option or path.
        CheckpointError: the file cannot be read.
        LayerError: it holds no fully connected layers.
    """
    checkpoint = open_checkpoint(path)
    report = _started("analyze", checkpoint, edge, "auto", Layout.FACTORED)
    found = assemble.layers_of(checkpoint, selection)
    fits = assemble.fits(track(found), edge, None, approximate=False)
    return assemble.decided(report, checkpoint, fits, by_rule("auto"))


def prune(
    path: str | Path,
    output: str | Path | None = None,
    *,
    keep: str = "auto",
    budget: Budget | None = None,
    max_drop: float | None = None,
    rank_multiple: int = 1,
    edge: str = "bema",
    layout: str = "factored",
    selection: Selection | None = None,
    evaluation: Evaluation | None = None,
    calibration: Calibration | None = None,
    dry_run: bool = False,
    force: bool = False,
    track: Track = iter,
) -> Report:
    """Write a rank-reduced checkpoint, and compare it with the dense one where data is given.

    Ranks come from a keep rule, layer by layer; or for all layers at once from a budget, or from a
    limit on what may be lost. With calibration data the factors are those that change the layers'
    outputs least; a budget or a limit takes the training part of the evaluation's data for it.

    Args:
        path: the checkpoint to prune; it is never changed.
        output: file to write, its format by its ending; ``<name>.pruned<ending>`` beside the
            input by default.
        keep: keep rule with options, such as ``"energy:fraction=0.9"``.
        budget: what the whole model may cost.
        max_drop: points of accuracy, or units of the user's own score, that may be lost.
        rank_multiple: with a budget or limit, ranks are multiples of it.
        edge: edge estimator with options.
        layout: ``factored``, or ``dense`` for the product under the old names.
        selection: which matrices are layers.
        evaluation: how to score both networks.
        calibration: how to find out what the layers see. It happens where its ``data`` is given,
            and under a budget or limit where the evaluation's data has a training part.
        dry_run: plan and evaluate, but write nothing.
        force: whether an existing output may be replaced.
        track: wraps the iteration over layers, for progress.

    Returns:
        The report. Its ``output`` is None after a dry run, and where no layer could be pruned:
        then no file is written.

    Raises:
        UsageError: a wrong option or path.
        CheckpointError: the file cannot be read.
        LayerError: no layers, or one whose values are not finite or do not fit its type.
        EvaluationError: the network cannot be built, fed or scored.
    """
    path, evaluation = Path(path), evaluation or Evaluation()
    target = default_output(path) if output is None else Path(output)
    goal = Goal(keep, budget, max_drop, rank_multiple)
    checkpoint = open_checkpoint(path)
    container_of(target)
    calibration = _source_of(calibration or Calibration(), goal, evaluation)
    if evaluation.model and not (evaluation.measures or calibration.data):
        raise UsageError("--model is used to evaluate or calibrate: give --data, --eval or --calib")
    if not dry_run:
        files = (evaluation.data, calibration.data)
        check_target(target, inputs=[path, *(Path(f) for f in files if f)], force=force)
    report = _started("prune", checkpoint, edge, keep, _layout(layout))
    found = assemble.layers_of(checkpoint, selection)
    data = None
    if calibration.data is not None:
        from rmtcli.running import calibrate  # needs torch

        layers = [item for item in found if isinstance(item, Layer) and not item.head]
        data = calibrate(checkpoint, layers, evaluation, calibration)
        report = replace(report, calibration=calibration)
    report = replace(report, budget=budget)
    fits: Iterable[Fitted | Skipped] = assemble.fits(track(found), edge, data, approximate=True)
    if goal.joint:
        fits = list(fits)
        assemble.refuse_not_finite(path, fits)
        report, choice = _jointly(report, checkpoint, fits, data, goal, evaluation)
    else:
        choice = by_rule(keep, data)
    report = assemble.decided(report, checkpoint, fits, choice)
    assemble.refuse_not_finite(path, report.skipped)
    result = assemble.edited(report, checkpoint)
    if evaluation.measures and report.comparison is None:
        report = replace(report, comparison=_compare(evaluation, result, checkpoint))
    notes = (*on_cost(report.comparison), *on_extras(checkpoint, target))
    written = None
    if report.pruned and not dry_run:
        write_checkpoint(result, target)
        written = describe(open_checkpoint(target))
    # The factors are in the file now; a report that lives on need not hold them.
    plans = tuple(replace(plan, factors=None) for plan in report.layers)
    return replace(report, output=written, layers=plans, notes=notes)


def densify(path: str | Path, output: str | Path, *, force: bool = False) -> Report:
    """Multiply the factors of a file that rmtcli wrote back into dense weights.

    Args:
        path: a factored checkpoint.
        output: file to write.
        force: whether an existing output may be replaced.

    Raises:
        UsageError: a wrong path.
        CheckpointError: the file cannot be read.
        LayerError: it holds no factors, or not those that its manifest names.
    """
    target = Path(output)
    checkpoint = open_checkpoint(path)
    container_of(target)
    check_target(target, inputs=[Path(path)], force=force)
    write_checkpoint(Edited(checkpoint, edits.join(checkpoint), None), target)
    return Report(
        "densify",
        describe(checkpoint),
        output=describe(open_checkpoint(target)),
        notes=on_extras(checkpoint, target),
    )


def evaluate(
    path: str | Path, *, evaluation: Evaluation, against: str | Path | None = None
) -> Report:
    """Score a checkpoint, factored or not, alone or beside another.

    Args:
        path: the checkpoint in question.
        evaluation: how to score it.
        against: the dense checkpoint to compare with.

    Raises:
        UsageError: a wrong option or path, or nothing to evaluate on.
        CheckpointError: a file cannot be read, or does not fit the network.
        EvaluationError: the network cannot be built, fed or scored.
    """
    if not evaluation.measures:
        raise UsageError("nothing to evaluate on: give --data or --eval")
    checkpoint = open_checkpoint(path)
    reference = None if against is None else open_checkpoint(against)
    return Report(
        "evaluate",
        describe(checkpoint),
        reference=None if reference is None else describe(reference),
        comparison=_compare(evaluation, checkpoint, reference),
    )


def default_output(path: Path) -> Path:
    """Where ``prune`` writes when it is not told: ``model.pt`` becomes ``model.pruned.pt``."""
    return path.with_name(f"{path.stem}.pruned{path.suffix}")


def describe(checkpoint: Checkpoint) -> Source:
    """The facts about a file that a report names."""
    with checkpoint.path.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    size, tensors = checkpoint.path.stat().st_size, len(checkpoint.infos)
    return Source(str(checkpoint.path), digest, size, tensors, checkpoint.parameters)


def _started(action: str, checkpoint: Checkpoint, edge: str, keep: str, layout: Layout) -> Report:
    """A report with nothing in it yet but its options, which are checked."""
    return Report(
        action,
        describe(checkpoint),
        edge=EDGES.spell(EDGES.parse(edge)),
        keep=KEEP_RULES.spell(KEEP_RULES.parse(keep)),
        layout=layout,
    )


def _jointly(
    report: Report,
    checkpoint: Checkpoint,
    fits: Sequence[Fitted | Skipped],
    data: Mapping[str, Data] | None,
    goal: Goal,
    evaluation: Evaluation,
) -> tuple[Report, Choice]:
    """What becomes of all layers at once, and the report with what that took."""
    fitted = [item for item in fits if isinstance(item, Fitted)]
    allocation = allocation_of(checkpoint, fitted, data, goal)
    if goal.budget is not None:
        return report, under_budget(checkpoint, allocation, goal.budget, data)
    assert goal.max_drop is not None

    def make(choice: Choice) -> Edited:
        return assemble.edited(assemble.decided(report, checkpoint, fits, choice), checkpoint)

    choice, comparison, guard = within_limit(
        checkpoint, allocation, make, data, evaluation, goal.max_drop
    )
    return replace(report, comparison=comparison, guard=guard), choice


def _source_of(calibration: Calibration, goal: Goal, evaluation: Evaluation) -> Calibration:
    """Joint ranks are calibrated on the training part of the evaluation's data, if it has one."""
    data = evaluation.data
    if calibration.data is None and goal.joint and data is not None and has_training_part(data):
        return replace(calibration, data=data)
    return calibration


def _compare(
    evaluation: Evaluation, checkpoint: Checkpoint, reference: Checkpoint | None
) -> Comparison:
    # Only evaluation needs torch: analysing and pruning a safetensors file do without it.
    from rmtcli.evaluation.score import compare

    return compare(evaluation, checkpoint, reference)


def _layout(name: str) -> Layout:
    try:
        return Layout(name)
    except ValueError:
        known = ", ".join(layout.value for layout in Layout)
        raise UsageError(f"unknown layout '{name}': choose one of {known}") from None
