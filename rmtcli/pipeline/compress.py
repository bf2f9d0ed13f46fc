"""Compress a network that is in memory: a copy of it, or the module itself."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import suppress
from dataclasses import replace
from inspect import signature
from operator import attrgetter
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar, cast

import numpy as np

from rmtcli.calibration import Calibrated, Calibration, GivenInputs
from rmtcli.checkpoint import Edited, RawTensor, format_of, open_checkpoint
from rmtcli.computing.gradients import outside_inference_mode
from rmtcli.errors import EvaluationError, LayerError, UsageError
from rmtcli.evaluation import Comparison, Evaluation
from rmtcli.evaluation.harness import Score
from rmtcli.files import is_path
from rmtcli.layers import Selection
from rmtcli.pipeline.fits import Track
from rmtcli.pipeline.inputs import check_calibration, input_files
from rmtcli.pipeline.prune import carried_out, layout_for, settled_calibration
from rmtcli.pipeline.request import Request, chosen_bits, goal_of
from rmtcli.planning import Budget, LayerPlan, Plan
from rmtcli.report.base import Report

if TYPE_CHECKING:
    from torch import nn

M = TypeVar("M", bound="nn.Module")


@outside_inference_mode
def compress(
    model: M,
    *,
    budget: Budget | str | None = None,
    keep: str = "auto",
    max_drop: float | None = None,
    layout: str = "factored",
    bits: int | str | None = None,
    calibration: Any = None,
    data: Any = None,
    score: Score | None = None,
    task: str | None = None,
    rank_multiple: int | None = None,
    share_inputs: bool = False,
    per_block: bool = False,
    plan: Plan | str | Path | None = None,
    edge: str = "select",
    selection: Selection | None = None,
    cache: str | Path | None = None,
    track: Track = iter,
) -> M:
    """Compress a copy of a torch module; the module stays as it is.

    The tensors of the result are those that :func:`~rmtcli.prune` writes to a file. Nothing is
    written. The module may be any network, one in a wrapper (``torch.compile``, ``DataParallel``),
    a model of transformers, or a SentenceTransformer. Its weights are not copied while it is
    measured; the result has memory of its own.

    Args:
        model: the module, on any device.
        budget: what the whole model may cost, such as ``"20%"`` of its parameters, or
            ``Budget("10%", "bytes")``.
        keep: keep rule with options, if there is neither a budget nor ``max_drop``.
        max_drop: points of accuracy, or units of ``score``, that may be lost.
        layout: ``factored``, ``pivoted``, ``dense``, ``narrow`` or ``auto``.
        bits: bits per entry of all matrices, ``"auto"`` for a choice for each within a budget of
            bytes or a limit, which is the default of such a budget, or ``"none"``. The module holds
            the rounded values in the types that it had; :func:`~rmtcli.save` writes few bits.
        calibration: inputs like those that the network will see, which make the result much better:
            an array or tensor, a DataLoader or another iterable of batches (labels are ignored), a
            data set, dictionaries of a tokenizer, a list of texts for a SentenceTransformer, or a
            file. Or :class:`~rmtcli.Calibration`, for more options.
        data: samples on which the loss is measured, of the same kinds; with labels, by accuracy.
        score: a function from a module to a number that should not fall.
        task: what the network is used for, such as ``"regression"``; by default it is inferred.
        rank_multiple: with a budget or limit, ranks and widths are multiples of it; by default of
            8 for a budget of time, where the layer has a side of 64 at least.
        share_inputs: with a budget or limit, layers that read the same input share a factor.
        per_block: whether each hidden layer of a model of transformers gets a width of its own.
        plan: a plan to carry out, or its file.
        edge: edge estimator with options.
        selection: which matrices are layers.
        cache: folder in which decompositions are kept and looked up; none by default.
        track: wraps the iteration over layers, for progress.

    Returns:
        The compressed module. Its attribute ``report`` is the report. :func:`~rmtcli.save` writes
        it, and :func:`~rmtcli.densify` makes a dense module of it.

    Raises:
        UsageError: a wrong option, or something else than a module.
        CheckpointError: the module's weights have no values, or a layer cannot be replaced.
        LayerError: no layers; a layer whose values are not finite or exceed its type.
        EvaluationError: the module cannot be copied, fed or scored.
    """
    return cast(M, _compressed(locals(), in_place=False))


@outside_inference_mode
def compress_(model: M, **options: Any) -> M:
    """Compress a torch module in place, and return it.

    Layers are replaced by smaller ones with new parameters, so that optimizers have to be made
    afterwards. Everything else stays as it is, in the memory that it has.

    Args:
        model: the module.
        options: those of :func:`compress`.

    Raises:
        RmtcliError: as :func:`compress`; the module is unchanged then.
    """
    given = signature(compress).bind(model, **options)
    given.apply_defaults()
    _compressed(given.arguments, in_place=True)
    return model


def _compressed(given: Mapping[str, Any], *, in_place: bool) -> nn.Module:
    """The module or a copy of it, compressed, for the arguments of :func:`compress`."""
    model = given["model"]
    if not hasattr(model, "named_modules"):
        raise UsageError(f"compress takes a torch module, not {type(model).__name__}")
    from rmtcli.layouts.copies import shared_copy

    checkpoint = open_checkpoint(model)
    inner = cast("nn.Module", checkpoint.module)
    whole = inner if in_place else shared_copy(inner)
    first = next(inner.parameters(), None)
    evaluation = Evaluation(given["data"], score=given["score"], task=given["task"])
    if first is not None:
        evaluation = replace(evaluation, device=str(first.device))
    goal = goal_of({**given, "batches": ()})
    harness, selection = evaluation.resolve(checkpoint), given["selection"]
    settings = given["calibration"]
    if not isinstance(settings, Calibration):
        settings = Calibration(settings)
    settings = settled_calibration(settings, harness, selection, goal)
    inputs = input_files(model, evaluation.data, settings, given["plan"])
    check_calibration(settings, inputs, harness)
    few = chosen_bits(given["bits"], goal, format_of(checkpoint, Path("saved.safetensors")))
    values = selection, settings, given["cache"], None, given["track"], goal.plan is None, few
    request = Request(goal, given["edge"], layout_for(given["layout"], goal.plan), *values)
    report, result = carried_out(harness, request)
    _finish(whole, result.network, report, in_place=in_place)
    return whole


def _finish(whole: nn.Module, network: Edited, report: Report, *, in_place: bool) -> None:
    """Put the new tensors, the record and the report into the module that is returned."""
    from rmtcli.checkpoint.torch.memory import core_of, keep_packed, put_record
    from rmtcli.layouts.copies import keep_shell, shell_of, unshare
    from rmtcli.layouts.structure import install

    core, shell = core_of(whole), None
    if report.changes:
        with suppress(EvaluationError):  # densify says that the structure is not known
            shell = shell_of(core)
        install(core, network)
        put_record(core, network.manifest)
        keep_packed(core, network)
        keep_shell(core, shell)
        for entry, width in (network.manifest.entries if network.manifest else {}).items():
            part, _, key = entry.rpartition(".")
            config = cast(Any, core).config
            setattr(attrgetter(part)(config) if part else config, key, width)
    if not in_place:
        unshare(whole)
    cast(Any, whole).report = _light(report)


def _light(report: Report) -> Report:
    """The report without the dense weights and the samples, which it would keep in memory."""
    layers = tuple(map(_without_weight, report.layers))
    comparison = report.comparison and _without_inputs(report.comparison)
    calibrated = report.calibrated and _without_data(report.calibrated)
    return replace(report, layers=layers, comparison=comparison, calibrated=calibrated)


def _without_weight(plan: LayerPlan) -> LayerPlan:
    return replace(plan, layer=replace(plan.layer, read=_released))


def _released() -> RawTensor:
    raise LayerError("the dense weight is not kept after compression")


def _without_inputs(comparison: Comparison) -> Comparison:
    samples = comparison.samples
    if samples is None:
        return comparison
    empty = np.zeros((len(samples.inputs), 0), samples.inputs.dtype)
    return replace(comparison, samples=replace(samples, inputs=empty))


def _without_data(calibrated: Calibrated) -> Calibrated:
    data = calibrated.settings.data
    if data is None or isinstance(data, str) or is_path(data):
        return calibrated
    words = GivenInputs(str(data), np.zeros((0, 1)))
    return replace(calibrated, settings=replace(calibrated.settings, data=words))
