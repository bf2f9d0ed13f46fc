"""From the changes of a network's layers to the parts of an adapter."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from rmtcli.adapters import AdaptedLayer
from rmtcli.calibration import ByLayer, Calibrated, Calibration
from rmtcli.checkpoint.names import bias_of
from rmtcli.checkpoint.spill import Stored
from rmtcli.edges import EDGES
from rmtcli.errors import LayerError, UsageError
from rmtcli.evaluation import Evaluation, Harness
from rmtcli.keep import Untouched
from rmtcli.layers import Layer, Selection, Skipped, SkipReason, matches
from rmtcli.options import option
from rmtcli.pipeline.adapter_parts import (
    Maker,
    config_of,
    on_left_out,
    on_resized,
    saved_whole,
    tied_head,
)
from rmtcli.pipeline.adapter_ranks import AdapterGoal, by_budget, by_rule
from rmtcli.pipeline.calibrate import calibrate_layers, calibration_source
from rmtcli.pipeline.changes import Pair
from rmtcli.pipeline.fits import FitStream, FittedLayers, Fitter, Track, fit_layers
from rmtcli.pipeline.inputs import check_calibration
from rmtcli.pipeline.repaired import Repairer
from rmtcli.pipeline.stages import describe, refuse_not_finite
from rmtcli.planning import LayerCalibration, LayerPlan
from rmtcli.report.extracted import Extracted


@dataclass(frozen=True, slots=True, eq=False)
class Adapted:
    """The parts of an adapter, and what a report says of them.

    Attributes:
        plans: every layer, with its rank or the reason why it has none.
        skipped: layers that could not be fitted.
        layers: the low-rank changes.
        saved: tensors that the adapter holds whole.
        config: entries of PEFT's configuration.
        extracted: what the adapter holds of the change, without its size.
        calibrated: where the statistics of the base's inputs came from, or None.
        notes: sentences that a user should read.
    """

    plans: tuple[LayerPlan, ...]
    skipped: tuple[Skipped, ...]
    layers: tuple[AdaptedLayer, ...]
    saved: Mapping[str, Stored]
    config: Mapping[str, object]
    extracted: Extracted
    calibrated: Calibrated | None
    notes: tuple[str, ...]


def adapt(
    pair: Pair,
    goal: AdapterGoal,
    selection: Selection | None,
    evaluation: Evaluation,
    calibration: Calibration,
    *,
    saves: bool,
    track: Track,
) -> Adapted:
    """Decide the ranks of all layers' changes, and make their factors one layer after the other.

    Args:
        pair: the network before and after training; or, for a repair, compressed and dense.
        goal: how ranks are decided.
        selection: which matrices are layers.
        evaluation: how the network is built and fed for calibration: the base, or the dense one.
        calibration: its inputs, if there are any.
        saves: whether the adapter's style holds tensors whole.
        track: wraps the iteration over layers, for progress.

    Raises:
        UsageError: a wrong option, or a pattern that matches nothing.
        LayerError: no layer, or values that are not finite.
        EvaluationError: the base cannot be built or fed.
    """
    layers = _layers(pair, goal, selection)
    network = pair.tuned if goal.repairs else pair.base
    harness = evaluation.resolve(network)
    known, calibrated = _calibrate(harness, layers, calibration)
    calibrations = _for_changes(known, layers, pair, shifts=goal.repairs and saves)
    edge = EDGES.parse(goal.edge)
    fitter = Fitter(edge, calibrations, approximate=True, in_metric=goal.repairs)
    fits: FitStream | FittedLayers
    fits = fit_layers([pair.change(layer) for layer in layers], fitter, track=track)
    if goal.budget is None:
        choose = by_rule(goal, calibrations)
    else:
        fits = fits.held()
        size = goal.budget.amount(pair.base.parameters)
        choose = by_budget(fits.fitted, goal, size, calibrations)
    maker = Repairer(pair, choose, calibrations) if goal.repairs else Maker(pair, choose)
    plans, skipped = [], []
    for item in fits.map(maker.plan):
        if isinstance(item, Skipped):
            skipped.append(item)
        else:
            plans.append(maker.keep(item))
    refuse_not_finite(pair.tuned.path, skipped)
    others = list(pair.others(layers))
    saved = maker.saved | (saved_whole(pair, others, goal) if saves else {})
    unchanged = sum(item.reason is SkipReason.ZERO for item in skipped)
    extracted = maker.extracted(plans, others, saved, unchanged)
    notes = harness.notes if calibrated else ()
    if not goal.repairs:
        notes += on_resized(others) + (on_left_out(extracted) if saves else ())
    left = tuple(item for item in skipped if item.reason is not SkipReason.ZERO)
    config = config_of(pair, maker.layers, saved)
    adapted = tuple(maker.layers)
    return Adapted(tuple(plans), left, adapted, saved, config, extracted, calibrated, notes)


def _layers(pair: Pair, goal: AdapterGoal, selection: Selection | None) -> list[Layer]:
    """The layers that may get a low-rank change: not those that are held whole.

    Raises:
        UsageError: a pattern matches nothing.
        LayerError: there are no layers.
    """
    for pattern in goal.whole:
        if not any(matches(name, pattern) for name in pair.base.infos):
            raise UsageError(f"{option('whole', pattern)}: matches no tensor of {pair.base.path}")
    layers = [
        layer
        for layer in pair.layers(selection)
        if not any(matches(layer.tensor, pattern) for pattern in goal.whole)
    ]
    head = tied_head(pair.base)
    if head is not None:
        layers = [replace(x, tied=(*x.tied, head)) if x.view.table else x for x in layers]
    if not layers:
        raise LayerError(f"{pair.base.path}: no layer is left that could get a low-rank change")
    return layers


def _calibrate(
    harness: Harness, layers: Sequence[Layer], calibration: Calibration
) -> tuple[ByLayer[LayerCalibration] | None, Calibrated | None]:
    """The calibration of a network's layers by name, if there are inputs or statistics."""
    if calibration.refines:
        raise UsageError(
            f"{option('sequential')} and {option('heal')} refine no adapter: leave them out"
        )
    settings = calibration_source(calibration, harness, joint=False)
    if settings.data is None and settings.stats is None:
        return None, None
    network = harness.checkpoint
    check_calibration(settings, list(network.files), harness)
    heads = [layer for layer in layers if layer.head]  # prune collects no statistics of them
    body = [layer for layer in layers if not layer.head]
    return calibrate_layers(harness, describe(network).sha256, body, settings, heads)


def _for_changes(
    known: ByLayer[LayerCalibration] | None, layers: Sequence[Layer], pair: Pair, *, shifts: bool
) -> ByLayer[LayerCalibration] | None:
    """The calibrations of layers as those of their changes, and why other layers have none.

    Moments of z = Wx tell nothing of a change of W. A bias takes up means only where the adapter
    holds a new one.

    Args:
        known: the calibrations, by the names of the layers.
        layers: the layers.
        pair: the two networks.
        shifts: whether the adapter holds new biases.
    """
    if known is None:
        return None
    items, missing = dict[str, LayerCalibration](), dict(known.missing)
    for layer in layers:
        item = known.get(layer.name)
        if item is None:
            missing.setdefault(layer.name, Untouched.NO_STATISTICS)
        elif item.moments.of_outputs:
            missing[layer.name] = Untouched.OF_OUTPUTS
        else:
            bias = item.bias and shifts and bias_of(layer.tensor) in pair.base.infos
            items[layer.name] = replace(item, bias=bias)
    return ByLayer(items, missing)
