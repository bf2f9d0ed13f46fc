"""The conductor of every command that prunes: prepare a checkpoint, then make results from it."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from rmtcli.calibration import Calibrated, Calibration
from rmtcli.checkpoint import Checkpoint, Edited
from rmtcli.computing import Cluster
from rmtcli.edges import EDGES
from rmtcli.errors import LayerError, UsageError
from rmtcli.evaluation import Comparison, Harness
from rmtcli.layers import Layer, Selection, Skipped
from rmtcli.layouts import LAYOUTS, Factored, Layout, Replacements
from rmtcli.pipeline.calibrate import calibrate_layers
from rmtcli.pipeline.fits import (
    FitStream,
    FittedLayers,
    Fitter,
    Track,
    decomposer_for,
    fit_layers,
)
from rmtcli.pipeline.stages import (
    Method,
    Planned,
    describe,
    edited,
    layers_of,
    plan_layers,
    refuse_not_finite,
)
from rmtcli.planning import (
    Goal,
    Guard,
    Latency,
    LayerCalibration,
    LayerPlan,
    Plan,
    RankChooser,
    approximated,
    check_plan,
    sibling_groups,
)
from rmtcli.report.base import Report, Source
from rmtcli.report.notes import NO_SIBLINGS
from rmtcli.spectra import Factors

#: Gives reasons why nothing is to be written, from the report of what would be.
Refuse = Callable[[Report], Sequence[str]]


@dataclass(frozen=True, slots=True, eq=False)
class Request:
    """How a checkpoint is to be pruned.

    Attributes:
        goal: how ranks are decided.
        edge: edge estimator with options.
        layout: how pruned layers are stored.
        selection: which matrices are layers; None for the default.
        calibration: how to find out what the layers see; without data or statistics they are
            pruned from their weights alone.
        cache: folder in which decompositions are kept and looked up, or None.
        cluster: where layers are computed; None for this process.
        track: wraps the iteration over layers, for progress.
        hashed: whether the bytes of each layer are hashed as they are read, for a new plan.
    """

    goal: Goal
    edge: str = "select"
    layout: Layout = field(default_factory=Factored)
    selection: Selection | None = None
    calibration: Calibration = field(default_factory=Calibration)
    cache: str | Path | None = None
    cluster: Cluster | None = None
    track: Track = iter
    hashed: bool = False

    @property
    def calibrates(self) -> bool:
        """Whether there is something to calibrate on."""
        return self.calibration.data is not None or self.calibration.stats is not None

    @property
    def shares(self) -> bool:
        """Whether layers that read the same input share a right factor."""
        return self.goal.share_inputs or bool(self.goal.plan and self.goal.plan.groups)


@dataclass(frozen=True, slots=True, eq=False)
class Result:
    """A checkpoint pruned with one choice of ranks.

    Attributes:
        planned: the plan of every layer.
        network: the pruned checkpoint.
        unhealed: the pruned checkpoint before healing; None where nothing was healed.
        notes: sentences a user should read.
    """

    planned: Planned
    network: Edited
    unhealed: Edited | None = None
    notes: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, eq=False)
class Prepared:
    """A checkpoint whose layers are found and calibrated, and fitted or about to be.

    Attributes:
        harness: the dense network, and how it is built, fed and scored.
        request: how it is to be pruned.
        source: the checkpoint's path, hash and sizes.
        method: the request's method, with all options spelled out.
        fits: the layers. They are held where ranks are decided for all layers at once or siblings
            share a factor; else they are a stream, which makes one result.
        calibrations: the calibration of each layer, by name; None without calibration.
        calibrated: what was calibrated on; None without calibration.
        notes: sentences a user should read, whatever the ranks.
    """

    harness: Harness
    request: Request
    source: Source
    method: Method
    fits: FitStream | FittedLayers
    calibrations: Mapping[str, LayerCalibration] | None
    calibrated: Calibrated | None
    notes: tuple[str, ...] = ()

    @property
    def checkpoint(self) -> Checkpoint:
        """The dense network's checkpoint."""
        return self.harness.checkpoint

    @property
    def held(self) -> FittedLayers:
        """The layers in memory.

        Raises:
            TypeError: they are a stream.
        """
        if isinstance(self.fits, FitStream):
            raise TypeError("the layers are a stream: ranks are decided one by one")
        return self.fits

    def result(self, choose: RankChooser) -> Result:
        """Prune the checkpoint with these ranks.

        Raises:
            LayerError: a layer that holds values that are not finite.
        """
        refines = self.request.calibration.refines and self.calibrations is not None
        replacements = None if refines else Replacements(self.checkpoint, self.method.layout)
        planned = plan_layers(self.checkpoint, self.fits, choose, self.method.layout, replacements)
        refuse_not_finite(self.checkpoint.path, planned.skipped)
        if refines and planned.pruned:
            return self._refined(planned)
        return Result(planned, self._edited(planned, replacements))

    def _refined(self, planned: Planned) -> Result:
        """The result after the factors were fitted again, or healed, on the calibration data."""
        from rmtcli.running.refine import refine  # needs torch

        assert self.calibrations is not None
        request = self.request
        factored = replace(self.method, layout=Factored())
        split = edited(self.checkpoint, self.source, factored, planned.pruned)
        refined = refine(
            self.harness, split, planned.pruned, self.calibrations, request.calibration
        )
        unhealed = None
        if request.calibration.heal:
            unhealed = self._edited(_with_factors(planned, refined.unhealed))
        planned = _with_factors(planned, refined.factors)
        return Result(planned, self._edited(planned), unhealed, refined.notes)

    def _edited(self, planned: Planned, replacements: Replacements | None = None) -> Edited:
        return edited(self.checkpoint, self.source, self.method, planned.pruned, replacements)

    def report(
        self,
        action: str,
        result: Result,
        *,
        comparison: Comparison | None = None,
        guard: Guard | None = None,
        plan: Plan | None = None,
        latency: tuple[Latency, ...] = (),
        notes: Sequence[str] = (),
    ) -> Report:
        """The report of a result, before it is written."""
        return Report(
            action,
            self.source,
            edge=self.method.edge,
            keep=self.method.keep,
            made_by=self.method.made_by,
            layout=self.method.layout,
            # The factors are in the network; a report that lives on need not hold them.
            layers=tuple(replace(layer, factors=None) for layer in result.planned.layers),
            skipped=result.planned.skipped,
            comparison=comparison,
            calibrated=self.calibrated,
            budget=self.request.goal.budget,
            guard=guard,
            plan=plan,
            latency=latency,
            notes=tuple(notes),
        )


def prepare(harness: Harness, request: Request) -> Prepared:
    """Find the layers, calibrate if there is something to calibrate on, and fit them.

    Raises:
        UsageError: a wrong option, or two that cannot be combined.
        LayerError: no layers, or a plan that is not for them.
        EvaluationError: the network cannot be built or fed.
    """
    checkpoint, goal, layout = harness.checkpoint, request.goal, request.layout
    method = Method.spelled(request.edge, goal.keep, layout, goal.words)
    source = describe(checkpoint)
    items = layers_of(checkpoint, request.selection)
    if goal.plan is not None:
        check_plan(goal.plan, checkpoint, items, layout)
    if request.shares:
        _check_sharing(request)
    calibrations, calibrated = None, None
    if request.calibrates:
        calibrations, calibrated = _calibrate(harness, source, items, request)
    fitter = Fitter(
        EDGES.parse(request.edge),
        calibrations,
        approximate=not request.shares,
        hashed=request.hashed,
        decomposer=decomposer_for(harness.evaluation.device, request.cache),
    )
    stream = fit_layers(items, fitter, cluster=request.cluster, track=request.track)
    values = harness, request, source, method
    if not (goal.joint or request.shares):
        return Prepared(*values, stream, calibrations, calibrated)
    layers = stream.held()
    notes: tuple[str, ...] = ()
    refuse_not_finite(checkpoint.path, layers.items)
    if request.shares and calibrations is not None:
        layers, notes = _share(checkpoint, layers, calibrations, request)
    return Prepared(*values, layers, calibrations, calibrated, notes)


def _calibrate(
    harness: Harness, source: Source, items: Sequence[Layer | Skipped], request: Request
) -> tuple[dict[str, LayerCalibration], Calibrated]:
    """The calibration of all layers that may be pruned: no output heads, unless a plan names them.

    Raises:
        UsageError: layers are computed on a cluster.
    """
    if request.cluster is not None:
        raise UsageError(
            "--executor computes layers from their weights alone: leave out --calib, --stats "
            "and, with a budget or limit, the training part of --data"
        )
    plan = request.goal.plan
    layers = [
        item
        for item in items
        if isinstance(item, Layer) and (item.name in plan.ranks if plan else not item.head)
    ]
    return calibrate_layers(harness, source.sha256, layers, request.calibration)


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


def _check_sharing(request: Request) -> None:
    """Make sure that layers can share right factors.

    Raises:
        UsageError: they cannot.
    """
    if not request.calibrates:
        raise UsageError(
            "--share-inputs has to see which layers read the same input: give inputs with --calib"
        )
    if request.calibration.sequential:
        raise UsageError(
            "--share-inputs and --sequential exclude each other: a sequential fit gives each layer "
            "factors of its own; --heal does not"
        )
    if not request.layout.shared_parts:
        raise UsageError(
            f"--share-inputs and --layout {LAYOUTS.spell(request.layout)} exclude each other: "
            "nothing is shared"
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


def _with_factors(planned: Planned, factors: Mapping[str, Factors]) -> Planned:
    layers = (_refactored(plan, factors) for plan in planned.layers)
    return replace(planned, layers=tuple(layers))


def _refactored(plan: LayerPlan, factors: Mapping[str, Factors]) -> LayerPlan:
    if plan.untouched is not None:
        return plan
    return replace(plan, factors=factors[plan.layer.name])
