"""Write a smaller checkpoint."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from rmtcli.calibration import Calibration, Folder
from rmtcli.checkpoint import (
    DIRECTORY,
    Openable,
    format_of,
    open_checkpoint,
)
from rmtcli.computing import connected
from rmtcli.computing.gradients import outside_inference_mode
from rmtcli.errors import UsageError
from rmtcli.evaluation import Evaluation, Harness
from rmtcli.files import as_path, check_target
from rmtcli.layers import Selection
from rmtcli.layouts import LAYOUTS, Factored, Layout
from rmtcli.options import option
from rmtcli.pipeline.calibrate import calibration_source
from rmtcli.pipeline.decide import reach
from rmtcli.pipeline.fits import Track
from rmtcli.pipeline.inputs import check_calibration, input_files
from rmtcli.pipeline.prepare import prepare
from rmtcli.pipeline.prepared import Prepared, Result
from rmtcli.pipeline.request import (
    Refuse,
    Request,
    chosen_bits,
    default_output,
    goal_of,
    on_kept_types,
)
from rmtcli.pipeline.stages import on_tensors
from rmtcli.pipeline.timing import check_batches, time_layers
from rmtcli.pipeline.vocabulary import prune_vocabulary
from rmtcli.pipeline.written import check_onnx, onnx_writer, written_report
from rmtcli.planning import (
    Budget,
    Goal,
    Plan,
    calibration_of,
    plan_of,
)
from rmtcli.report.base import Report
from rmtcli.report.notes import on_cost, on_extras, on_opening


@outside_inference_mode
def prune(
    model: Openable,
    output: str | Path | None = None,
    *,
    key: str | None = None,
    keep: str = "auto",
    budget: Budget | str | None = None,
    max_drop: float | None = None,
    rank_multiple: int | None = None,
    share_inputs: bool = False,
    per_block: bool = False,
    plan: Plan | str | Path | None = None,
    edge: str = "select",
    layout: str = "factored",
    bits: int | str | None = None,
    vocab: str | Path | None = None,
    selection: Selection | None = None,
    evaluation: Evaluation | None = None,
    calibration: Calibration | None = None,
    batches: Sequence[int] = (),
    dry_run: bool = False,
    refuse: Refuse = lambda report: (),
    force: bool = False,
    verify: bool = True,
    onnx: bool = False,
    cache: str | Path | None = None,
    executor: str | None = None,
    track: Track = iter,
) -> Report:
    """Write a smaller checkpoint, and compare it with the dense one if data are given.

    Ranks come from a keep rule, layer by layer; or, for all layers together, from a budget or a
    limit on the loss of accuracy. With calibration data, factors are chosen that change the layers'
    outputs least; with a budget or limit, the training part of the evaluation's data serves as
    calibration data by default, and, of a directory whose network reads text, random tokens.

    Args:
        model: the path of a file or Hugging Face directory; or a torch module or state dict, for
            which ``output`` is needed. It is never changed.
        key: which state dict, where a torch file holds several, such as ``ema`` or
            ``state.generator``.
        output: file to write, in the format of its ending; for a directory, the directory to
            write. By default ``<name>.pruned<ending>`` beside the input.
        keep: keep rule with options, such as ``"energy:fraction=0.9"``.
        budget: what the whole model may cost, such as ``"20%"`` of its parameters.
        max_drop: points of accuracy, or units of the user's own score, that may be lost.
        rank_multiple: with a budget or limit, ranks and widths are multiples of it; by default of
            8 for a budget of time, where the layer has a side of 64 at least.
        share_inputs: with a budget or limit, layers that read the same input share a right factor;
            calibration shows which layers do.
        per_block: whether each hidden layer of a directory gets a width of its own, so that
            transformers needs rmtcli's loader to open it. By default, all that have one entry of
            ``config.json`` get one width.
        plan: a plan to carry out, or its file; it sets ranks, shared factors, bits and calibration.
        edge: edge estimator with options.
        layout: ``factored``, ``pivoted``, ``dense`` for the product under the old names, or
            ``narrow`` for hidden layers with fewer units, which needs a budget or limit and
            calibration data. ``auto`` divides the budget among units and ranks.
        bits: bits per entry in which all matrices are stored, pruned or not: 8, 6, 5, 4, 3 or 2.
            Layers are rounded with error feedback where they are calibrated. With ``"auto"``, a
            budget of bytes or a limit chooses them for each matrix together with its rank; that is
            the default of a budget of bytes for a safetensors file or a directory. ``"none"`` keeps
            all types.
        vocab: file of texts. Tokens of a directory that these do not use are dropped from its
            tokenizer and its tables before anything else is done; without a goal, nothing else is.
        selection: which matrices are layers.
        evaluation: how to score both networks.
        calibration: how to calibrate. Layers are calibrated where its ``data`` is given, and with
            a budget or limit where the evaluation's data has a training part, or a directory's
            network reads text: then on random tokens. ``stats`` is written where it does not
            exist, in a dry run as well.
        batches: numbers of samples at which forward passes are timed: each linear layer alone on so
            many rows and, with evaluation data, the whole network. A budget of time is measured at
            the first.
        dry_run: plan and evaluate, but write nothing.
        refuse: takes the report, and returns reasons why nothing is to be written.
        force: whether an existing output may be replaced.
        verify: whether the output is read back before it appears under its name: every tensor is
            compared, and the error of each pruned layer with the predicted error.
        onnx: whether a directory also gets ``onnx/model.onnx``, whose outputs onnxruntime has
            computed as torch does. Weights in few bits stay whole numbers in it.
        cache: folder in which decompositions are kept and looked up; none by default.
        executor: ``dask://host:port`` of a cluster that calibrates and decomposes; its workers must
            reach the checkpoint, the data and the cache under the same paths.
        track: wraps the iteration over layers, for progress.

    Returns:
        The report. Its ``output`` is None where no file is written: in a dry run, where no layer
        can be pruned, and where ``refuse`` returns a reason.

    Raises:
        UsageError: a wrong option or path.
        CheckpointError: the file cannot be read, or the output differs from what was intended.
        LayerError: no layers; a layer whose values are not finite or exceed its type; a plan for
            other weights.
        EvaluationError: the network cannot be built, fed or scored.
        ClusterError: the cluster was lost.
    """
    given = {**locals(), "vocab": None}
    if vocab is not None:
        return prune_vocabulary(as_path(vocab), prune, given)
    evaluation, calibration = evaluation or Evaluation(), calibration or Calibration()
    check_batches(batches)
    goal = goal_of(given)
    if goal.max_drop is not None and not evaluation.measures:
        raise UsageError(
            f"{option('max-drop')} needs {option('data')} with 'targets', or {option('eval')}"
        )
    checkpoint = open_checkpoint(model, key=key)
    target = default_output(checkpoint.path) if output is None else as_path(output)
    if output is None and not checkpoint.files:
        raise UsageError(f"{checkpoint.path}: is in memory: name the output, or use compress")
    written = format_of(checkpoint, target)
    harness = evaluation.resolve(checkpoint)
    if onnx:
        check_onnx(harness, written)
    calibration = settled_calibration(calibration, harness, selection, goal)
    inputs = input_files(model, evaluation.data, calibration, plan)
    check_calibration(calibration, inputs, harness)
    if not dry_run:
        check_target(target, inputs=inputs, force=force, directory=written is DIRECTORY)
    with connected(executor) as cluster:
        options = selection, calibration, cache, cluster, track
        layouts, chosen = layout_for(layout, goal.plan), chosen_bits(bits, goal, written)
        request = Request(goal, edge, layouts, *options, goal.plan is None, chosen)
        report, result = carried_out(harness, request, batches)
    notes = (
        *on_kept_types(bits, goal, written),
        *on_extras(checkpoint, target),
    )
    report = replace(report, notes=(*report.notes, *notes))
    if dry_run or not report.changes or refuse(report):
        return report
    also = onnx_writer(harness, result.network, wanted=onnx)
    report = written_report(report, result, target, also=also, force=force, verify=verify)
    Folder.clear(calibration.spill)
    return report


def carried_out(
    harness: Harness, request: Request, batches: Sequence[int] = ()
) -> tuple[Report, Result]:
    """Prune a network, and report the result.

    Args:
        harness: the dense network, and how it is built, fed and scored.
        request: how it is to be pruned.
        batches: numbers of samples at which forward passes are timed.
    """
    prepared = prepare(harness, request)
    checkpoint, (result, comparison, guard) = harness.checkpoint, reach(prepared)
    networks = harness, result.network
    device = harness.evaluation.device
    report = prepared.report(
        "prune",
        result,
        comparison=comparison,
        guard=guard,
        plan=_plan(prepared, result, request.goal.plan),
        latency=time_layers(
            result.planned.layers, batches, device, networks, prepared.calibrations
        ),
        notes=(
            *on_cost(comparison),
            *on_tensors(checkpoint, result.planned),
            *prepared.notes,
            *result.notes,
            *(on_opening(checkpoint, result.planned.pruned) if prepared.chooses else ()),
        ),
    )
    return report, result


def _plan(prepared: Prepared, result: Result, applied: Plan | None) -> Plan:
    """The plan that leads to these ranks, widths and bits."""
    words = prepared.request.goal.words if applied is None else applied.made_by
    layout = prepared.method.layout
    plan = plan_of(
        prepared.checkpoint,
        result.planned.layers,
        words,
        prepared.calibrated,
        applied,
        prepared.hidden,
        layout if layout.narrows else None,
    )
    return plan.in_few_bits(result.grids)


def layout_for(name: str, plan: Plan | None) -> Layout:
    """The layout that a user asks for, or that a plan of widths is for.

    Raises:
        UsageError: the two differ.
    """
    given = LAYOUTS.parse(name)
    if plan is None or plan.layout is None or plan.layout == LAYOUTS.spell(given):
        return given
    if given != Factored():
        raise UsageError(
            f"the plan is for {option('layout', plan.layout)}, not {name}: leave out "
            f"{option('layout')}"
        )
    return LAYOUTS.parse(plan.layout)


def settled_calibration(
    given: Calibration,
    harness: Harness,
    selection: Selection | None,
    goal: Goal,
) -> Calibration:
    """The calibration that a plan or the user asks for, with default inputs where it needs any."""
    if goal.plan is not None:
        # --conv and others say which kinds of layers there are, not which of them to prune.
        names = selection or Selection()
        if replace(names, convolutions=False, recurrent=False, embeddings=False) != Selection():
            raise UsageError(
                f"a plan names its layers: leave out {option('include')}, {option('exclude')}, "
                f"{option('min-side')}"
            )
        given = calibration_of(goal.plan, given)
    guarded = goal.max_drop is not None
    settings = calibration_source(given, harness, joint=goal.joint, guarded=guarded)
    evaluation = harness.evaluation
    used = evaluation.measures or settings.data or settings.stats or goal.tries
    if evaluation.model and not used:
        raise UsageError(
            f"{option('model')} is used to evaluate, to calibrate, or to try what "
            f"{option('keep', 'auto')} decides: give {option('data')}, {option('eval')} or "
            f"{option('calib')}"
        )
    return settings
