"""From the changes of a network's layers to the parts of an adapter."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from rmtcli.adapters import AdaptedLayer
from rmtcli.calibration import ByLayer, Calibrated, Calibration
from rmtcli.checkpoint.spill import Stored
from rmtcli.edges import EDGES
from rmtcli.errors import LayerError, UsageError
from rmtcli.evaluation import Evaluation
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
        pair: the network before and after training.
        goal: how ranks are decided.
        selection: which matrices are layers.
        evaluation: how the base is built and fed for calibration.
        calibration: the inputs of the base, if there are any.
        saves: whether the adapter's style holds tensors whole.
        track: wraps the iteration over layers, for progress.

    Raises:
        UsageError: a wrong option, or a pattern that matches nothing.
        LayerError: no layer, or values that are not finite.
        EvaluationError: the base cannot be built or fed.
    """
    layers = _layers(pair, goal, selection)
    calibrations, calibrated, notes = _calibrate(pair, layers, evaluation, calibration)
    fitter = Fitter(EDGES.parse(goal.edge), calibrations, approximate=True)
    fits: FitStream | FittedLayers
    fits = fit_layers([pair.change(layer) for layer in layers], fitter, track=track)
    if goal.budget is None:
        choose = by_rule(goal, calibrations)
    else:
        fits = fits.held()
        size = goal.budget.amount(pair.base.parameters)
        choose = by_budget(fits.fitted, goal, size, calibrations)
    maker, plans, skipped = Maker(pair, choose), [], []
    for item in fits.map(maker.plan):
        if isinstance(item, Skipped):
            skipped.append(item)
        else:
            plans.append(maker.keep(item))
    refuse_not_finite(pair.tuned.path, skipped)
    others = list(pair.others(layers))
    saved = saved_whole(pair, others, goal.whole) if saves else {}
    unchanged = sum(item.reason is SkipReason.ZERO for item in skipped)
    extracted = maker.extracted(plans, others, saved, unchanged)
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
    pair: Pair, layers: Sequence[Layer], evaluation: Evaluation, calibration: Calibration
) -> tuple[ByLayer[LayerCalibration] | None, Calibrated | None, tuple[str, ...]]:
    """The calibration of the base's layers by name, if there are inputs or statistics.

    A bias takes up nothing: an adapter cannot change it.
    """
    if calibration.refines:
        raise UsageError(
            f"{option('sequential')} and {option('heal')} refine no adapter: leave them out"
        )
    harness = evaluation.resolve(pair.base)
    settings = calibration_source(calibration, harness, joint=False)
    if settings.data is None and settings.stats is None:
        return None, None, ()
    check_calibration(settings, list(pair.base.files), harness)
    sha256 = describe(pair.base).sha256
    known, calibrated = calibrate_layers(harness, sha256, layers, settings)
    unbiased = {name: replace(item, bias=False) for name, item in known.items()}
    return ByLayer(unbiased, known.missing), calibrated, harness.notes
