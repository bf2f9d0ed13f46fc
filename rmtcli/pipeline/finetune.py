"""Prune a checkpoint and train it for a few epochs."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from rmtcli.arrays import FloatArray
from rmtcli.calibration import Calibration
from rmtcli.checkpoint import (
    Checkpoint,
    Edited,
    encode,
    format_of,
    open_checkpoint,
    write_checkpoint,
)
from rmtcli.checkpoint.dtypes import FLOATS
from rmtcli.checkpoint.spill import Stored
from rmtcli.computing.gradients import outside_inference_mode
from rmtcli.errors import EvaluationError, TrainingError, UsageError
from rmtcli.evaluation import Evaluation, Harness, Rows, Samples
from rmtcli.evaluation.data import has_training_part, read_samples
from rmtcli.files import check_target, is_path
from rmtcli.layers import Selection
from rmtcli.layouts import ReadBack
from rmtcli.options import option
from rmtcli.pipeline.calibrate import calibration_source
from rmtcli.pipeline.decide import decide
from rmtcli.pipeline.fits import Track
from rmtcli.pipeline.prepare import prepare
from rmtcli.pipeline.request import Refuse, Request
from rmtcli.pipeline.stages import describe, described
from rmtcli.planning import Budget, Goal
from rmtcli.report.base import Report
from rmtcli.report.notes import on_extras

if TYPE_CHECKING:
    from torch import nn

    from rmtcli.evaluation.score import Scorer
    from rmtcli.running.finetune import Training


@outside_inference_mode
def finetune(
    path: str | Path,
    output: str | Path | None = None,
    *,
    key: str | None = None,
    evaluation: Evaluation,
    keep: str | None = None,
    budget: Budget | str | None = None,
    edge: str = "select",
    selection: Selection | None = None,
    teacher: str | Path | None = None,
    training: Training | None = None,
    refuse: Refuse = lambda report: (),
    force: bool = False,
    verify: bool = True,
    track: Track = iter,
) -> Report:
    """Prune a dense checkpoint, or take a pruned one, and train it for a few epochs.

    All parameters are trained, on the training part of the evaluation's data (``train_inputs`` and
    ``train_targets``). On the held-out part, the report compares the result with the dense network
    and with the network before training.

    Args:
        path: a dense or factored checkpoint file.
        key: which state dict, where a torch file holds several, such as ``ema`` or
            ``state.generator``.
        output: file to write; ``<name>.finetuned<ending>`` beside the input by default.
        evaluation: data, and how to build the network.
        keep: keep rule, ``auto`` by default; for a dense checkpoint only.
        budget: what the pruned model may cost, such as ``"20%"``, in place of a keep rule; for a
            dense checkpoint only.
        edge: edge estimator with options; used for a dense checkpoint only.
        selection: which matrices are layers; used for a dense checkpoint only.
        teacher: the dense checkpoint that a factored one was made from; a dense checkpoint is its
            own teacher. Needed where ``training.distill`` is above 0.
        training: how to train.
        refuse: takes the report, and returns reasons why nothing is to be written.
        force: whether an existing output may be replaced.
        verify: whether the output is read back and compared before it appears under its name.
        track: wraps the iteration over layers, for progress.

    Raises:
        UsageError: a wrong option or path, or options that exclude each other.
        CheckpointError: a file cannot be read, or does not fit the network.
        LayerError: no layers, or one whose values are not finite.
        EvaluationError: the network cannot be built or fed, or the data has no training part.
        TrainingError: the loss or a weight is no longer finite, or a weight exceeds its type.
    """
    from rmtcli.evaluation.score import Scorer  # needs torch
    from rmtcli.running.finetune import Training

    training, path = training or Training(), _checked(path)
    samples = _samples(evaluation, needs_labels=training.distill < 1)
    checkpoint = open_checkpoint(path, key=key)
    default = path.with_name(f"{path.stem}.finetuned{path.suffix}")
    target = default if output is None else Path(output)
    format_of(checkpoint, target)
    inputs = [Path(file) for file in (path, _data_file(evaluation), teacher) if file is not None]
    check_target(target, inputs=inputs, force=force)
    factored = checkpoint.manifest is not None and bool(checkpoint.manifest.factored)
    if factored and (keep is not None or budget is not None):
        raise UsageError(
            f"{path}: is pruned already: leave out {option('keep')} and {option('budget')}"
        )
    dense = _teacher(path, checkpoint, teacher, factored=factored, distills=training.distill > 0)
    harness = evaluation.resolve(checkpoint)
    reference = None if dense is None else evaluation.resolve(dense)
    report, pruned, scorer = Report("finetune", describe(checkpoint)), checkpoint, None
    if not factored:
        goal = Goal(keep or "auto", Budget.of(budget), None)
        request = Request(goal, edge, selection=selection, track=track)
        report, pruned, scorer = _pruned(harness, request)
    scorer = scorer or Scorer(harness, reference)
    edits = _learned(harness, pruned, reference, samples, training)
    tuned = Edited(checkpoint, edits, pruned.manifest)
    comparison = scorer.compare(tuned, pruned)
    extras = on_extras(checkpoint, target)
    report = replace(
        report,
        comparison=replace(comparison, training="fine-tuning"),
        reference=describe(dense) if factored and dense is not None else None,
        notes=tuple(dict.fromkeys((*report.notes, *(reference or harness).notes, *extras))),
    )
    if refuse(report):
        return report
    write_checkpoint(tuned, target, force=force, verify=verify)
    readback = ReadBack(len(tuned.infos), {}) if verify else None
    return replace(report, output=described(target, tuned), readback=readback)


def _teacher(
    path: Path,
    checkpoint: Checkpoint,
    teacher: str | Path | None,
    *,
    factored: bool,
    distills: bool,
) -> Checkpoint | None:
    """The dense network: a dense checkpoint itself, or the one given beside a factored checkpoint.

    Raises:
        UsageError: a teacher beside a dense checkpoint, or none where one has to teach.
    """
    if not factored and teacher is not None:
        raise UsageError(f"{path}: is dense, and its own teacher: leave out {option('teacher')}")
    if factored and teacher is None and distills:
        raise UsageError(
            f"{option('distill')} needs the dense network: name it with {option('teacher')}"
        )
    if teacher is not None:
        return open_checkpoint(teacher, key=checkpoint.key)
    return None if factored else checkpoint


def _checked(path: str | Path) -> Path:
    """The path of a file.

    Raises:
        UsageError: it is a directory, or a network in memory.
    """
    if not (isinstance(path, str) or is_path(path)):
        raise UsageError(
            f"finetune reads a file, not a {type(path).__name__}: compress the network, and train "
            "it in a program of your own"
        )
    path = Path(path)
    if path.is_dir():
        raise UsageError(f"{path}: is a directory: train it with rmtcli.integrations.trainer")
    return path


def _data_file(evaluation: Evaluation) -> str | Path | None:
    """The file of the data; None without data.

    Raises:
        UsageError: they are in memory.
    """
    data = evaluation.data
    if isinstance(data, str | Path) or data is None:
        return data
    raise UsageError(f"{data}: finetune reads its data from a file")


def _samples(evaluation: Evaluation, *, needs_labels: bool) -> Samples:
    data = _data_file(evaluation)
    if data is None:
        raise UsageError(
            f"nothing to train on: give {option('data')} with train_inputs and train_targets"
        )
    if not has_training_part(data):
        raise EvaluationError(f"{data}: has no 'train_inputs' to train on")
    samples = read_samples(data, part="train_")
    if samples.targets is None and needs_labels:
        raise EvaluationError(
            f"{data}: has no 'train_targets': add them, or set {option('distill', 1)}"
        )
    return samples


def _pruned(harness: Harness, request: Request) -> tuple[Report, Checkpoint, Scorer | None]:
    """The report and the checkpoint that ``prune`` would write, and who has scored the dense one.

    Raises:
        UsageError: no layer can be pruned.
    """
    calibration = calibration_source(Calibration(), harness, joint=request.goal.joint)
    prepared = prepare(harness, replace(request, calibration=calibration))
    result = decide(prepared)
    if not result.planned.pruned:
        path, words = harness.checkpoint.path, request.goal.words
        raise UsageError(f"{path}: no layer can be pruned by {words}")
    report = prepared.report("finetune", result, notes=result.notes)
    return report, result.network, prepared.scorer


def _learned(
    harness: Harness,
    pruned: Checkpoint,
    dense: Harness | None,
    samples: Samples,
    training: Training,
) -> dict[str, Mapping[str, Stored]]:
    """The tensors after training, by the name of the source's tensor that they replace."""
    from rmtcli.evaluation.network import build, reading_of
    from rmtcli.layouts.wrapped import naming
    from rmtcli.running.finetune import train

    model = build(harness, pruned)
    teacher = build(dense) if training.distill and dense is not None else None
    reading = reading_of(harness, model, samples)
    if reading.rows is not Rows.CLASSES:
        raise EvaluationError(
            f"{samples.path}: finetune trains networks for classification, and this one is for "
            f"{reading.words}: heal it on calibration data, or train it in a program of your own"
        )
    train(model, teacher, reading.ready(samples), training, reading)
    own, values = naming(model, pruned), _values(model)
    edits = pruned.edits if isinstance(pruned, Edited) else {}
    shared = pruned.ties(pruned.infos)
    made: dict[str, Stored] = {}

    def stored(name: str) -> Stored:
        info, key = pruned.infos[name], own(name)
        if key is None or key not in values or info.dtype not in FLOATS:
            return pruned.raw(name)
        try:
            return made.setdefault(shared.get(name, name), encode(values[key], info.dtype))
        except OverflowError as error:
            raise TrainingError(
                f"{name}: {error}: training has diverged: lower {option('lr')}"
            ) from None

    names = harness.checkpoint.infos
    return {old: {new: stored(new) for new in edits.get(old, [old])} for old in names}


def _values(model: nn.Module) -> dict[str, FloatArray]:
    from rmtcli.layouts.module import float64_of

    return {
        name: float64_of(value)
        for name, value in model.state_dict().items()
        if value.is_floating_point()
    }
