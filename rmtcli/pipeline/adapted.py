"""The changes of a network's layers with their fits, and the parts of an adapter of them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from rmtcli.adapters import AdaptedLayer
from rmtcli.calibration import ByLayer, Calibrated, Calibration
from rmtcli.checkpoint.names import bias_of
from rmtcli.checkpoint.spill import Stored
from rmtcli.edges import EDGES
from rmtcli.errors import LayerError, UsageError
from rmtcli.evaluation import Comparison, Harness
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
from rmtcli.pipeline.adapter_ranks import AdapterGoal
from rmtcli.pipeline.calibrate import calibrate_layers, calibration_source
from rmtcli.pipeline.changes import Changed, Pair
from rmtcli.pipeline.fits import FitStream, FittedLayers, Fitter, Track, fit_layers
from rmtcli.pipeline.inputs import check_calibration
from rmtcli.pipeline.repaired import Repairer
from rmtcli.pipeline.stages import describe, refuse_not_finite
from rmtcli.planning import Guard, LayerCalibration, LayerPlan, RankChooser
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
        comparison: scores of the base with the adapter beside those of the tuned network, or None.
        guard: the limit on what may be lost, or None.
    """

    plans: tuple[LayerPlan, ...]
    skipped: tuple[Skipped, ...]
    layers: tuple[AdaptedLayer, ...]
    saved: Mapping[str, Stored]
    config: Mapping[str, object]
    extracted: Extracted
    calibrated: Calibrated | None
    notes: tuple[str, ...]
    comparison: Comparison | None = None
    guard: Guard | None = None


@dataclass(frozen=True, slots=True, eq=False)
class Changes:
    """The changes of a network's layers, fitted and ready to get ranks.

    Attributes:
        pair: the network before and after training; or, for a repair, compressed and dense.
        goal: how ranks are decided.
        fits: the changes of the layers with their fits.
        others: the tensors that changed beside them.
        calibrations: the calibrations of the layers by name; None without calibration.
        calibrated: where they came from.
        saves: whether the adapter's style holds tensors whole.
        notes: sentences that a user should read.
    """

    pair: Pair
    goal: AdapterGoal
    fits: FitStream | FittedLayers
    others: tuple[Changed, ...]
    calibrations: ByLayer[LayerCalibration] | None
    calibrated: Calibrated | None
    saves: bool
    notes: tuple[str, ...]

    @staticmethod
    def of(
        pair: Pair,
        goal: AdapterGoal,
        selection: Selection | None,
        harness: Harness,
        calibration: Calibration,
        *,
        saves: bool,
        track: Track,
    ) -> Changes:
        """The changes of two networks' layers.

        Args:
            pair: the two networks.
            goal: how ranks are decided.
            selection: which matrices are layers.
            harness: the network that is calibrated, and how it is built and fed.
            calibration: its inputs, if there are any.
            saves: whether the adapter's style holds tensors whole.
            track: wraps the iteration over layers, for progress.

        Raises:
            UsageError: a wrong option, or a pattern that matches nothing.
            LayerError: no layer.
            EvaluationError: the network cannot be built or fed.
        """
        layers = _layers(pair, goal, selection)
        known, calibrated = _calibrate(harness, layers, calibration)
        calibrations = _for_changes(known, layers, pair, shifts=goal.repairs and saves)
        edge = EDGES.parse(goal.edge)
        fitter = Fitter(edge, calibrations, approximate=True, in_metric=goal.repairs)
        fits = fit_layers([pair.change(layer) for layer in layers], fitter, track=track)
        values = (calibrations, calibrated, saves, harness.notes if calibrated else ())
        held = fits.held() if goal.ranks.joint else fits
        return Changes(pair, goal, held, tuple(pair.others(layers)), *values)

    @property
    def held(self) -> FittedLayers:
        """The fits, where ranks are decided for all layers together."""
        assert isinstance(self.fits, FittedLayers)
        return self.fits

    def adapted(self, choose: RankChooser) -> Adapted:
        """Give each layer its rank, and make the factors one layer after the other.

        Raises:
            LayerError: values that are not finite, or beyond the range of the factors' type.
        """
        pair, goal = self.pair, self.goal
        maker = Repairer(pair, choose, self.calibrations) if goal.repairs else Maker(pair, choose)
        plans, skipped = list[LayerPlan](), list[Skipped]()
        for item in self.fits.map(maker.plan):
            if isinstance(item, Skipped):
                skipped.append(item)
            else:
                plans.append(maker.keep(item))
        refuse_not_finite(pair.tuned.path, skipped)
        saved = maker.saved | (saved_whole(pair, self.others, goal) if self.saves else {})
        unchanged = sum(item.reason is SkipReason.ZERO for item in skipped)
        extracted = maker.extracted(plans, self.others, saved, unchanged)
        notes = self.notes
        if not goal.repairs:
            notes += on_resized(self.others) + (on_left_out(extracted) if self.saves else ())
        return Adapted(
            tuple(plans),
            tuple(item for item in skipped if item.reason is not SkipReason.ZERO),
            tuple(maker.layers),
            saved,
            config_of(pair, maker.layers, saved),
            extracted,
            self.calibrated,
            notes,
        )


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
