"""A checkpoint that is ready to be pruned, and the results that are made from it."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from types import MappingProxyType
from typing import TYPE_CHECKING

from rmtcli.calibration import ByLayer, Calibrated, Folder
from rmtcli.checkpoint import Checkpoint, Edited, Edits
from rmtcli.evaluation import Comparison, Harness
from rmtcli.keep import Untouched
from rmtcli.layers import Skipped
from rmtcli.layouts import Factored, Layout, Replacements, choices_for, with_values
from rmtcli.pipeline.contents import tensors_of
from rmtcli.pipeline.fits import FitStream, FittedLayers
from rmtcli.pipeline.refined import (
    fitted_again,
    fitted_in_parts,
    healed_in_parts,
    in_layout,
    on_undone,
    replaced,
    with_factors,
)
from rmtcli.pipeline.reliability import with_reliability
from rmtcli.pipeline.request import Request
from rmtcli.pipeline.stages import Method, Planned, edited, plan_layers, refuse_not_finite
from rmtcli.planning import (
    CutLayers,
    Fitted,
    Guard,
    HiddenLayers,
    Latency,
    LayerCalibration,
    Plan,
    RankChooser,
    Trial,
)
from rmtcli.quantization import Grid
from rmtcli.report.base import Report, Source
from rmtcli.report.notes import on_more_samples, on_widths

if TYPE_CHECKING:
    from rmtcli.evaluation.score import Scorer


@dataclass(frozen=True, slots=True, eq=False)
class Result:
    """A checkpoint pruned with one choice of ranks.

    Attributes:
        planned: the plan of every layer.
        network: the pruned checkpoint.
        unhealed: the pruned checkpoint before healing; None where nothing was healed.
        notes: sentences a user should read.
        undone: the refinements that were undone: ``sequential``, ``heal``.
        calibrations: those of its own layers, if hidden layers are narrower; else None.
        grids: the grid of each matrix in few bits, by the name of its tensor in the dense network,
            where they are chosen one by one, and of all after rounding.
    """

    planned: Planned
    network: Edited
    unhealed: Edited | None = None
    notes: tuple[str, ...] = ()
    undone: tuple[str, ...] = ()
    calibrations: Mapping[str, LayerCalibration] | None = None
    grids: Mapping[str, Grid] = field(default_factory=dict)


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
        scorer: has scored the dense network; None without data, and where a search divides them.
        hidden: the hidden layers that can be made narrower; None where none can.
        teacher: the network whose outputs healing learns, if it is not this one.
        trials: what rounding layers costs, by layer name, where bits are chosen.
        folder: holds moments and decompositions of a network that runs block by block; else None.
    """

    harness: Harness
    request: Request
    source: Source
    method: Method
    fits: FitStream | FittedLayers
    calibrations: ByLayer[LayerCalibration] | None
    calibrated: Calibrated | None
    notes: tuple[str, ...] = ()
    scorer: Scorer | None = None
    hidden: HiddenLayers | None = None
    teacher: Harness | None = None
    trials: dict[str, Trial] = field(default_factory=dict)
    folder: Folder | None = None

    @property
    def chooses(self) -> bool:
        """Whether each layer's layout was chosen for it."""
        return len(self.method.layout.choices) > 1

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

    def result(
        self, choose: RankChooser, layouts: Mapping[str, Layout] = MappingProxyType({})
    ) -> Result:
        """Prune the checkpoint with these ranks.

        Args:
            choose: gives each layer its rank.
            layouts: the layouts of single layers, by name; the others have the method's.

        Raises:
            LayerError: a layer that holds values that are not finite.
        """
        refines = self.request.calibration.refines and self.calibrations is not None
        held = refines and self.folder is None
        replacements = None if held else Replacements(self.checkpoint)
        # A task that is sent to a cluster carries these, and must not carry all layers.
        usual, others = self.method.layout, dict(layouts)

        def layout(item: Fitted) -> Layout:
            return others.get(item.layer.name) or choices_for(usual, item.layer)[0]

        planned = plan_layers(self.checkpoint, self.fits, choose, layout, replacements)
        refuse_not_finite(self.checkpoint.path, planned.skipped)
        edits = None if replacements is None else replacements.finish()
        if refines and planned.pruned:
            return self._refined(planned, edits)
        return Result(planned, self._edited(planned, edits))

    def narrowed(self, widths: Sequence[int], why: Untouched = Untouched.BUDGET) -> Result:
        """Make hidden layers narrower, and heal the network if that is asked for."""
        result, heals = self.cut(widths, why), self.request.calibration.heals
        return self._healed(result) if heals and result.planned.pruned else result

    def cut(self, widths: Sequence[int], why: Untouched = Untouched.BUDGET) -> Result:
        """Make hidden layers narrower.

        Args:
            widths: the width of each hidden layer.
            why: the reason for leaving layers alone whose hidden layers keep their width.
        """
        assert self.hidden is not None
        network = self.hidden.at(widths)
        layers = tuple(network.plan(item, why) for item in self.held.fitted)
        skipped = tuple(item for item in self.held.items if isinstance(item, Skipped))
        planned = Planned(layers, skipped)
        values = self.checkpoint, self.source, self.method, planned.pruned
        made = edited(*values, network.edits(), network)
        notes = on_widths(network, rounded=self.request.bits is not None)
        return Result(planned, made, notes=notes, calibrations=self._cut(widths))

    def _cut(self, widths: Sequence[int]) -> Mapping[str, LayerCalibration]:
        """The calibrations of the layers at these widths of the hidden layers."""
        assert self.hidden is not None
        known: Mapping[str, LayerCalibration] = self.calibrations or {}
        cut = CutLayers(self.hidden, known, tuple(widths))
        return {name: cut.calibration(name) for name in known}

    def _refined(self, planned: Planned, edits: Edits | None) -> Result:
        """The result after the factors were fitted again, or healed, on the calibration data."""
        settings, undone = self.request.calibration, tuple[str, ...]()
        remarks = tuple[str, ...]()
        if settings.sequential:
            assert self.calibrations is not None
            what = self.harness, planned, self.calibrations, settings
            if self.folder is None:
                planned, refined = fitted_again(*what, self._split(planned))
            else:
                new, refined = fitted_in_parts(*what, self.folder)
                edits = edits if new is None else new
            remarks, undone = refined.remarks, () if refined.helped else ("sequential",)
        notes = (*remarks, *map(on_undone, undone))
        result = Result(planned, self._edited(planned, edits), notes=notes, undone=undone)
        return self._healed(result) if settings.heals else result

    def _healed(self, result: Result) -> Result:
        """The result after its new tensors were trained, if that is asked for and helps.

        Layers of low rank are trained as two balanced factors, whatever their layout: pivot rows
        are so sensitive to the coefficients of the others that training them diverges.
        """
        if self.request.heals_in_bits(result.planned.pruned):
            return result
        network = self._trained(result) if self.folder is None else self._trained_in_parts(result)
        if network is None:
            notes = (*result.notes, on_undone("heal"))
            return replace(result, notes=notes, undone=(*result.undone, "heal"))
        return replace(result, network=network, unhealed=result.network)

    def _trained(self, result: Result) -> Edited | None:
        """The network trained end to end; None if that does not help."""
        from rmtcli.running.heal import heal  # needs torch

        planned, ranks = result.planned, self.method.layout.ranks
        start = self._split(planned) if ranks else result.network
        values = heal(self.teacher or self.harness, start, self.request.calibration)
        if values is None or not ranks:
            return None if values is None else with_values(result.network, values)
        factors, others = in_layout(values, planned.pruned)
        return with_values(self._edited(with_factors(planned, factors)), others)

    def _trained_in_parts(self, result: Result) -> Edited | None:
        """The network trained block by block; None if that does not help."""
        settings, planned = self.request.calibration, result.planned
        assert self.folder is not None
        refitted = settings.sequential and "sequential" not in result.undone
        what = self.harness, planned, settings, self.folder
        edits = healed_in_parts(*what, refitted=refitted)
        return None if edits is None else self._edited(planned, edits)

    def _split(self, planned: Planned) -> Edited:
        """The pruned checkpoint with two factors in place of each weight."""
        plans = [replace(plan, layout=Factored()) for plan in planned.pruned]
        return edited(self.checkpoint, self.source, self.method, plans)

    def sparing(self, result: Result, names: Collection[str], why: Untouched) -> Result:
        """A result in which some more layers stay as they are.

        Args:
            result: the result of a rule, not refined.
            names: the layers; all or none of those that are parts of one tensor.
            why: the reason, for the report.
        """
        layers = [
            replace(plan, rank=plan.spectrum.p, untouched=why, relative_error=0.0)
            if plan.layer.name in names
            else plan
            for plan in result.planned.layers
        ]
        planned = replace(result.planned, layers=tuple(layers))
        kept = {name for plan in planned.pruned for name in replaced(plan)}
        edits = {name: new for name, new in result.network.edits.items() if name in kept}
        return replace(result, planned=planned, network=self._edited(planned, edits))

    def _edited(self, planned: Planned, edits: Edits | None = None) -> Edited:
        return edited(self.checkpoint, self.source, self.method, planned.pruned, edits)

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
        layers = result.planned.layers
        calibrated = with_reliability(self.calibrated, self.calibrations, layers, result.undone)
        return Report(
            action,
            self.source,
            edge=self.method.edge,
            keep=self.method.keep,
            made_by=self.method.made_by,
            layout=self.method.layout,
            # The factors are in the network; a report that lives on need not hold them.
            layers=tuple(replace(layer, factors=None) for layer in layers),
            skipped=result.planned.skipped,
            comparison=comparison,
            calibrated=calibrated,
            budget=self.request.goal.budget,
            guard=guard,
            plan=plan,
            latency=latency,
            notes=(*notes, *on_more_samples(calibrated), *self.harness.notes),
            left=result.network.parameters,
            bytes_left=result.network.bytes,
            bits=self.request.bits,
            tensors=tensors_of(self.checkpoint, result.network),
        )
