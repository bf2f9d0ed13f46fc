"""The whole run, from file to file: the only place where the stages meet."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from pathlib import Path

from rmtcli import edits
from rmtcli.checkpoint import (
    Checkpoint,
    Edited,
    Manifest,
    check_target,
    container_of,
    open_checkpoint,
    write_checkpoint,
)
from rmtcli.edges import EDGES
from rmtcli.errors import LayerError, UsageError
from rmtcli.evaluation.base import Comparison, Evaluation
from rmtcli.keep import KEEP_RULES
from rmtcli.layers import Layer, Selection, Skipped, SkipReason, find_layers, module_of
from rmtcli.plan import LayerPlan, Layout, plan_layer
from rmtcli.report.base import Report, Source
from rmtcli.version import __version__

#: Passes the layers on one by one; a caller may watch them go by.
Track = Callable[[Sequence[Layer | Skipped]], Iterable[Layer | Skipped]]

#: Points of accuracy whose loss a report points out.
LARGE_DROP = 0.5

NOT_MEASURED = (
    "accuracy: not measured. The edge tells noise from signal, not harmless from harmful: "
    "give --data or --eval to see what pruning costs"
)


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
    return _plan("analyze", open_checkpoint(path), edge, "auto", Layout.FACTORED, selection, track)


def prune(
    path: str | Path,
    output: str | Path | None = None,
    *,
    keep: str = "auto",
    edge: str = "bema",
    layout: str = "factored",
    selection: Selection | None = None,
    evaluation: Evaluation | None = None,
    dry_run: bool = False,
    force: bool = False,
    track: Track = iter,
) -> Report:
    """Write a rank-reduced checkpoint, and compare it with the dense one where data is given.

    Args:
        path: the checkpoint to prune; it is never changed.
        output: file to write, its format by its ending; ``<name>.pruned<ending>`` beside the
            input by default.
        keep: keep rule with options, such as ``"energy:fraction=0.9"``.
        edge: edge estimator with options.
        layout: ``factored``, or ``dense`` for the product under the old names.
        selection: which matrices are layers.
        evaluation: how to score both networks.
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
    path = Path(path)
    target = default_output(path) if output is None else Path(output)
    how, evaluation = _layout(layout), evaluation or Evaluation()
    checkpoint = open_checkpoint(path)
    container_of(target)
    if not dry_run:
        inputs = [path] if evaluation.data is None else [path, Path(evaluation.data)]
        check_target(target, inputs=inputs, force=force)
    report = _plan("prune", checkpoint, edge, keep, how, selection, track)
    for skipped in report.skipped:
        if skipped.reason is SkipReason.NOT_FINITE:
            raise LayerError(
                f"{path}: {skipped.name} {skipped.reason.value}: repair the checkpoint, or leave "
                f"the layer out with --exclude '{skipped.name}'"
            )
    changes = edits.split(checkpoint, report.pruned, how)
    result = Edited(checkpoint, changes, _manifest(report))
    comparison = _compare(evaluation, result, checkpoint) if evaluation.measures else None
    notes = (*_cost(comparison), *_beside(checkpoint, target))
    written = None
    if report.pruned and not dry_run:
        write_checkpoint(result, target)
        written = describe(open_checkpoint(target))
    # The factors are in the file now; a report that lives on need not hold them.
    plans = tuple(replace(plan, factors=None) for plan in report.layers)
    return replace(report, output=written, layers=plans, comparison=comparison, notes=notes)


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
        notes=_beside(checkpoint, target),
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
    comparison = _compare(evaluation, checkpoint, reference)
    return Report("evaluate", describe(checkpoint), comparison=comparison)


def default_output(path: Path) -> Path:
    """Where ``prune`` writes when it is not told: ``model.pt`` becomes ``model.pruned.pt``."""
    return path.with_name(f"{path.stem}.pruned{path.suffix}")


def describe(checkpoint: Checkpoint) -> Source:
    """The facts about a file that a report names."""
    with checkpoint.path.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    size, tensors = checkpoint.path.stat().st_size, len(checkpoint.infos)
    return Source(str(checkpoint.path), digest, size, tensors, checkpoint.parameters)


def _plan(
    action: str,
    checkpoint: Checkpoint,
    edge: str,
    keep: str,
    layout: Layout,
    selection: Selection | None,
    track: Track,
) -> Report:
    """A report in which every layer is fitted and decided on; factors come only for ``prune``."""
    estimator, rule = EDGES.parse(edge), KEEP_RULES.parse(keep)
    found = list(find_layers(checkpoint, selection))
    if not any(isinstance(item, Layer) for item in found):
        raise LayerError(
            f"{checkpoint.path}: no fully connected layers among {len(checkpoint.infos)} tensors"
        )
    plans: list[LayerPlan] = []
    skipped: list[Skipped] = []
    for item in track(found):
        if isinstance(item, Layer):
            outcome = plan_layer(
                item,
                edge=estimator,
                keep=rule,
                layout=layout,
                taken=checkpoint.infos.keys(),
                factors=action == "prune",
            )
        else:
            outcome = item
        if isinstance(outcome, Skipped):
            skipped.append(outcome)
        else:
            plans.append(outcome)
    return Report(
        action,
        describe(checkpoint),
        edge=EDGES.spell(estimator),
        keep=KEEP_RULES.spell(rule),
        layout=layout,
        layers=tuple(plans),
        skipped=tuple(skipped),
    )


def _manifest(report: Report) -> Manifest:
    """Rmtcli's record for the file to be written."""
    assert report.keep is not None
    assert report.edge is not None
    factored: dict[str, int] = {}
    if report.layout is Layout.FACTORED:
        for plan in report.pruned:
            names = (plan.layer.name, *plan.layer.aliases)
            factored |= {module_of(name): plan.rank for name in names}
    source = Path(report.source.path).name
    return Manifest(__version__, source, report.source.sha256, report.keep, report.edge, factored)


def _compare(
    evaluation: Evaluation, checkpoint: Checkpoint, reference: Checkpoint | None
) -> Comparison:
    # Only evaluation needs torch: analysing and pruning a safetensors file do without it.
    from rmtcli.evaluation.score import compare

    return compare(evaluation, checkpoint, reference)


def _cost(comparison: Comparison | None) -> tuple[str, ...]:
    """What a reader must know about what pruning cost."""
    if comparison is None:
        return (NOT_MEASURED,)
    drop = comparison.drop
    if drop is None or drop <= LARGE_DROP:
        return ()
    return (
        f"pruning costs {drop:.2f} points of accuracy: here, what was dropped matters. "
        "Keep more, as in --keep edge:below=0.2, or leave layers out with --exclude",
    )


def _beside(checkpoint: Checkpoint, target: Path) -> tuple[str, ...]:
    """What a reader must know about what stands beside the weights."""
    if not checkpoint.extras:
        return ()
    names = ", ".join(checkpoint.extras)
    if container_of(target) == "safetensors":
        return (f"not carried over, because safetensors holds tensors only: {names}",)
    if any("optim" in name for name in checkpoint.extras):
        return (f"kept as they are: {names}. An optimizer's state fits the dense network only",)
    return (f"kept as they are: {names}",)


def _layout(name: str) -> Layout:
    try:
        return Layout(name)
    except ValueError:
        known = ", ".join(layout.value for layout in Layout)
        raise UsageError(f"unknown layout '{name}': choose one of {known}") from None
