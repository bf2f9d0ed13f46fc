"""Prepare a checkpoint: find its layers, calibrate them and fit them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

from rmtcli.calibration import ByLayer, Calibrated, Folder
from rmtcli.checkpoint import Checkpoint
from rmtcli.edges import EDGES
from rmtcli.errors import LayerError, NotInPartsError, UsageError
from rmtcli.evaluation import Harness
from rmtcli.layers import Layer, Skipped
from rmtcli.layouts import LAYOUTS
from rmtcli.options import option
from rmtcli.pipeline.calibrate import calibrate_layers
from rmtcli.pipeline.embeddings import rounded_tables, wanted_layers
from rmtcli.pipeline.fits import (
    FittedLayers,
    Fitter,
    fit_layers,
)
from rmtcli.pipeline.narrow import check_widths, hidden_layers, on_kept_widths
from rmtcli.pipeline.prepared import Prepared
from rmtcli.pipeline.request import Request
from rmtcli.pipeline.solvers import decomposer_for
from rmtcli.pipeline.stages import (
    Method,
    describe,
    refuse_not_finite,
)
from rmtcli.pipeline.streaming import folder_for, on_one_piece, refuse_spill
from rmtcli.planning import (
    Goal,
    LayerCalibration,
    Plan,
    approximated,
    check_plan,
    sibling_groups,
)
from rmtcli.report.base import Source
from rmtcli.report.notes import NO_SIBLINGS

if TYPE_CHECKING:
    from rmtcli.evaluation.score import Scorer

#: Number of batches that a dense network is tried on where its samples are divided later.
BATCHES = 4


def prepare(harness: Harness, request: Request) -> Prepared:
    """Find the layers, calibrate if there is something to calibrate on, and fit them.

    Raises:
        UsageError: a wrong option, or two that cannot be combined.
        LayerError: no layers, or a plan that is not for them.
        EvaluationError: the network cannot be built or fed, or is worse than chance at its task.
    """
    checkpoint, goal, layout = harness.checkpoint, request.goal, request.layout
    method = Method.spelled(request.edge, goal.keep, layout, goal.words)
    source = describe(checkpoint)
    items = wanted_layers(harness, request)
    if request.calibration.refines:
        _check_refining(items)
    if goal.plan is not None:
        check_plan(goal.plan, checkpoint, items, layout)
    check_widths(request)
    if request.shares:
        _check_sharing(request)
    scorer = _scorer(harness, goal)
    calibrations, calibrated, folder = _calibrate(harness, source, items, request)
    fitter = _fitter(harness, request, calibrations, folder)
    stream = fit_layers(items, fitter, cluster=request.cluster, track=request.track)
    values = harness, request, source, method
    kept = (on_kept_widths(request),) if layout.narrows and not request.narrows else ()
    if not request.joint:
        return Prepared(*values, stream, calibrations, calibrated, kept, scorer, folder=folder)
    layers = stream.held()
    notes: tuple[str, ...] = ()
    refuse_not_finite(checkpoint.path, layers.items)
    if request.shares and calibrations is not None:
        layers, notes = _share(checkpoint, layers, calibrations, request)
    hidden = None
    if request.narrows and calibrations is not None:
        hidden = hidden_layers(harness, request, items, calibrations)
        kept = () if hidden else (on_kept_widths(request),)
        calibrations = calibrations if hidden else _without_heads(calibrations, layers)
    notes = (*notes, *kept)
    known = calibrations, calibrated
    return Prepared(*values, layers, *known, notes, scorer, hidden, folder=folder)


def _fitter(
    harness: Harness,
    request: Request,
    calibrations: ByLayer[LayerCalibration] | None,
    folder: Folder | None,
) -> Fitter:
    """What fits each layer, and prepares its approximations."""
    return Fitter(
        EDGES.parse(request.edge),
        calibrations,
        approximate=request.layout.ranks and not request.shares,
        hashed=request.hashed,
        decomposer=decomposer_for(harness.evaluation.device, request.cache),
        folder=folder,
    )


def _scorer(harness: Harness, goal: Goal) -> Scorer | None:
    """Score the dense network on data before anything is derived from it; None without data.

    A search within a limit divides the samples, and scores each part when its turn comes: only a
    few batches are tried first.

    Raises:
        EvaluationError: it is worse than chance, or cannot be built or fed.
    """
    samples = harness.samples
    if samples is None:
        return None
    from rmtcli.evaluation.score import Scorer  # needs torch

    if goal.max_drop is None:
        return Scorer(harness, harness)
    Scorer(harness, harness, samples.some(BATCHES * harness.task.batch))
    return None


def _calibrate(
    harness: Harness, source: Source, items: Sequence[Layer | Skipped], request: Request
) -> tuple[ByLayer[LayerCalibration] | None, Calibrated | None, Folder | None]:
    """The calibration of all layers that may change, if there is something to calibrate on.

    With it comes the folder that holds it if the network ran block by block.

    Output heads are among them if a plan gives them a rank or hidden layers before them become
    narrower; all other layers of a plan with bits are rounded with feedback, and so are tables.

    Raises:
        UsageError: the network cannot be calibrated on a cluster.
        EvaluationError: the network cannot be run, or not block by block where that is asked for.
    """
    if not request.calibrates:
        return None, None, None
    plan = request.goal.plan
    changed, rounded = set[str](), set[str]()
    if plan is not None:
        changed = {*plan.ranks, *(n for x in plan.hidden for n in (*x.writers, *x.readers))}
        rounded = {x.name for x in plan.layers} if plan.matrices else rounded

    def takes_part(layer: Layer) -> bool:
        body = request.narrows or not layer.head
        return body if plan is None else layer.name in changed or (layer.name in rounded and body)

    every = [item for item in items if isinstance(item, Layer)]
    tables = rounded_tables(harness.checkpoint, request, {layer.name for layer in every})
    layers = [layer for layer in every if takes_part(layer)]
    what = harness, source.sha256, layers, request.calibration, tables
    folder = folder_for(harness, source.sha256, [*layers, *tables], request)
    try:
        return *calibrate_layers(*what, folder, request.cluster), folder
    except NotInPartsError as error:
        if request.calibration.spill is not None:
            raise refuse_spill(harness, str(error)) from None
        harness.note([on_one_piece(str(error))])
        return *calibrate_layers(*what), None


def _without_heads(
    calibrations: ByLayer[LayerCalibration], layers: FittedLayers
) -> ByLayer[LayerCalibration]:
    """The calibrations of all layers but output heads, where no hidden layer gets narrower."""
    heads = {item.layer.name for item in layers.fitted if item.layer.head}
    kept = {name: known for name, known in calibrations.items() if name not in heads}
    return ByLayer(kept, calibrations.missing)


def _share(
    checkpoint: Checkpoint,
    fits: FittedLayers,
    calibrations: Mapping[str, LayerCalibration],
    request: Request,
) -> tuple[FittedLayers, tuple[str, ...]]:
    """The layers with approximations, siblings with one right factor; and what a user should know.

    Raises:
        LayerError: a plan groups layers that do not read the same input.
    """
    groups = sibling_groups(fits.fitted, calibrations, checkpoint.infos.keys(), request.layout)
    notes = () if groups else (NO_SIBLINGS,)
    if request.goal.plan is not None:
        _check_groups(checkpoint, request.goal.plan, groups)
        groups = request.goal.plan.groups
    items = approximated(fits.items, calibrations, groups)
    return replace(fits, items=tuple(items)), notes


def _check_refining(items: Sequence[Layer | Skipped]) -> None:
    """Make sure that no layer is a gate, which is truncated in place and has no factors to refine.

    Raises:
        UsageError: one is.
    """
    if any(isinstance(x, Layer) and x.view.recurrent and not x.view.splits for x in items):
        raise UsageError(
            f"{option('sequential')} and {option('heal')} refine factors, which recurrent layers "
            f"have in {option('layout', 'factored')} only: choose that layout, or leave out "
            f"{option('recurrent')}"
        )


def _check_sharing(request: Request) -> None:
    """Make sure that layers can share right factors.

    Raises:
        UsageError: they cannot.
    """
    if not request.calibrates:
        raise UsageError(
            f"{option('share-inputs')} has to see which layers read the same input: give inputs "
            f"with {option('calib')}"
        )
    if request.calibration.sequential:
        raise UsageError(
            f"{option('share-inputs')} and {option('sequential')} exclude each other: a "
            f"sequential fit gives each layer factors of its own; {option('heal')} does not"
        )
    if not request.layout.shared_parts:
        raise UsageError(
            f"{option('share-inputs')} and {option('layout', LAYOUTS.spell(request.layout))} "
            "exclude each other: nothing is shared"
        )


def _check_groups(checkpoint: Checkpoint, plan: Plan, known: Mapping[str, str]) -> None:
    """Make sure that the layers of each of a plan's groups read the same input.

    Raises:
        LayerError: they do not.
    """
    for name, first in plan.groups.items():
        if known.get(name) is None or known[name] != known.get(first):
            raise LayerError(
                f"{checkpoint.path}: the plan's layer '{name}' cannot share its right factor "
                f"with '{first}': they do not read the same input, or are stored in different ways"
            )
