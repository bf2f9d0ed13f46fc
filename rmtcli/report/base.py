"""The report as a value."""

from __future__ import annotations

import json
import math
from dataclasses import asdict, dataclass
from typing import Any

from rmtcli.arrays import FloatArray
from rmtcli.calibration import Calibrated
from rmtcli.checkpoint.dtypes import WORDS
from rmtcli.evaluation import Comparison
from rmtcli.layers import Layer, Skipped
from rmtcli.layouts import LAYOUTS, Layout, ReadBack
from rmtcli.planning import Budget, Guard, Latency, LayerPlan, Plan
from rmtcli.report.curve import Point
from rmtcli.report.measured import measured
from rmtcli.version import __version__

#: Version of the JSON layout; it rises when a field changes its meaning or goes away.
SCHEMA_VERSION = 1


@dataclass(frozen=True, slots=True)
class Source:
    """A checkpoint file as the report names it.

    Attributes:
        path: as the user wrote it.
        sha256: hash of the file.
        bytes: its size.
        tensors: how many tensors it holds.
        parameters: their entries together.
    """

    path: str
    sha256: str
    bytes: int
    tensors: int
    parameters: int


@dataclass(frozen=True, slots=True, eq=False)
class Report:
    """Everything a run found out and did.

    Attributes:
        action: ``analyze``, ``prune``, ``finetune``, ``densify``, ``evaluate`` or ``simulate``.
        source: the input.
        output: the file written, or None.
        reference: the network that an evaluation compares with, or None.
        edge: the edge estimator, all options spelled out; None where none was used.
        keep: the keep rule, likewise.
        made_by: what decides the ranks, as a user would ask for it.
        layout: how pruned layers are stored; None where none are.
        layers: every layer, in the checkpoint's order.
        skipped: every matrix that is no layer, with the reason.
        comparison: scores, or None where nothing was measured.
        calibrated: what the layers' inputs were taken from, or None.
        budget: what the model was allowed to cost, or None.
        guard: the limit on what may be lost, or None.
        plan: the ranks, as they can be written, edited and carried out again; None where there
            are none.
        readback: what reading the output back has shown; None where none was, or nothing was read.
        latency: forward times at each batch that was asked for, smallest first.
        curve: networks of several sizes, largest first; empty but after ``curve``.
        notes: sentences a user should read.
    """

    action: str
    source: Source
    output: Source | None = None
    reference: Source | None = None
    edge: str | None = None
    keep: str | None = None
    made_by: str = ""
    layout: Layout | None = None
    layers: tuple[LayerPlan, ...] = ()
    skipped: tuple[Skipped, ...] = ()
    comparison: Comparison | None = None
    calibrated: Calibrated | None = None
    budget: Budget | None = None
    guard: Guard | None = None
    plan: Plan | None = None
    readback: ReadBack | None = None
    latency: tuple[Latency, ...] = ()
    curve: tuple[Point, ...] = ()
    notes: tuple[str, ...] = ()

    @property
    def pruned(self) -> tuple[LayerPlan, ...]:
        """The layers that are (or, before writing, would be) changed."""
        return tuple(plan for plan in self.layers if plan.untouched is None)

    @property
    def pruned_parameters(self) -> tuple[int, int]:
        """Weights of the pruned layers as stored, before and after."""
        before = sum(plan.layer.copies * plan.layer.size for plan in self.pruned)
        return before, sum(plan.layer.copies * plan.size for plan in self.pruned)

    @property
    def parameters(self) -> tuple[int, int]:
        """Entries of all tensors, before and after: those of the file, where one was written."""
        if self.output is not None:
            return self.source.parameters, self.output.parameters
        before, after = self.pruned_parameters
        return self.source.parameters, self.source.parameters + after - before

    def to_dict(self, command: str | None = None) -> dict[str, Any]:
        """The report as plain values, for JSON.

        Args:
            command: the command line that made it, or None from Python.
        """
        return {
            "schema_version": SCHEMA_VERSION,
            "rmtcli_version": __version__,
            "command": command,
            "action": self.action,
            "source": _source(self.source),
            "output": _source(self.output),
            "reference": _source(self.reference),
            "readback": _readback(self.readback),
            "options": {
                "edge": self.edge,
                "keep": self.keep,
                "layout": LAYOUTS.spell(self.layout) if self.layout else None,
                "budget": asdict(self.budget) if self.budget else None,
            },
            "calibration": _calibrated(self.calibrated),
            "guard": asdict(self.guard) if self.guard else None,
            "parameters": _change(*self.parameters),
            "pruned_layers": _change(*self.pruned_parameters) | {"count": len(self.pruned)},
            "accuracy": measured(self.comparison),
            "latency": [_latency(found) for found in self.latency],
            "curve": [point.to_dict(self.source.parameters) for point in self.curve],
            "layers": [_layer(plan, self) for plan in self.layers],
            "skipped": [{"name": s.name, "reason": s.reason.value} for s in self.skipped],
            "notes": list(self.notes),
        }

    def to_pandas(self) -> Any:
        """A data frame with a row a layer (or a network of the curve), as in JSON; needs pandas.

        What JSON nests has columns of its own: ``parameters.after``.
        """
        import pandas

        record = self.to_dict()
        return pandas.json_normalize(record["curve"] or record["layers"])

    def _repr_html_(self) -> str:
        """What a notebook shows: the table and the summary."""
        from rmtcli.report.notebook import to_fragment

        return to_fragment(self)

    def to_json(self, command: str | None = None, *, ascii_only: bool = False) -> str:
        """The report as JSON text; numbers that are not finite never occur."""
        values = self.to_dict(command)
        return json.dumps(values, indent=2, allow_nan=False, ensure_ascii=ascii_only)


def _source(source: Source | None) -> dict[str, Any] | None:
    return None if source is None else {name: getattr(source, name) for name in source.__slots__}


def _readback(found: ReadBack | None) -> dict[str, int] | None:
    return None if found is None else {"tensors": found.tensors, "layers": len(found.errors)}


def _change(before: int, after: int) -> dict[str, Any]:
    return {"before": before, "after": after, "ratio": after / before if before else None}


def _latency(found: Latency) -> dict[str, Any]:
    layers = found.total if found.layers else None
    return {
        "batch": found.batch,
        "device": found.device,
        "threads": found.threads,
        "layers": None if layers is None else _seconds(*layers),
        "network": None if found.network is None else _seconds(*found.network),
        "slower": list(found.slower),
    }


def _seconds(before: float, after: float) -> dict[str, float]:
    return {"before": before, "after": after, "ratio": after / before}


def _layer(plan: LayerPlan, report: Report) -> dict[str, Any]:
    layer, fit = plan.layer, plan.fit
    n, p = max(layer.shape), min(layer.shape)
    pruned = plan.untouched is None
    after = plan.size
    return {
        "name": layer.name,
        "aliases": list(layer.aliases),
        "shape": list(layer.shape),
        "dtype": WORDS[layer.dtype],
        "n": n,
        "p": p,
        "gamma": fit.law.gamma,
        "sigma": fit.law.sigma,
        "lambda_plus": fit.law.lambda_plus,
        "edge": fit.edge,
        "edge_singular_value": singular_value(fit.edge, layer),
        "largest_singular_value": singular_value(plan.largest, layer),
        "sigma_error": fit.sigma_error,
        "edge_interval": fit.edge_interval,
        "ks_distance": fit.ks_distance,
        "fit_p_value": fit.p_value,
        "estimator": fit.chosen or None,
        "verdict": fit.verdict.name.lower(),
        "verdict_text": fit.verdict.value,
        "spikes": plan.spikes,
        "spike_table": _spikes(plan),
        "diagnostics": asdict(plan.diagnostics),
        "break_even_rank": layer.break_even_rank,
        "rank": plan.rank,
        "shares_right_factor_with": plan.shares_with,
        "pruned": pruned,
        "macs_per_position": _change(layer.size, plan.macs),
        "reason": None if plan.untouched is None else plan.untouched.name.lower(),
        "reason_text": None if plan.untouched is None else plan.untouched.value,
        "relative_error": plan.relative_error,
        "stored_error": report.readback.errors.get(layer.name) if report.readback else None,
        "predicted_loss": plan.predicted_loss,
        "parameters": _change(layer.size, after),
        "latency": [
            {"batch": found.batch} | _seconds(*found.layers[layer.name])
            for found in report.latency
            if layer.name in found.layers
        ],
    }


def _spikes(plan: LayerPlan) -> dict[str, list[float] | None]:
    """What is known of each spike, largest first.

    Null where the estimator has no theory of it, and where no vectors were computed.
    """
    layer, fit, above = plan.layer, plan.fit, plan.above
    p_values, signal = fit.p_values(above), fit.signal(max(layer.shape), above)
    sides: tuple[FloatArray, FloatArray] | None = None
    if signal is not None:
        sides = signal.long_overlap, signal.short_overlap
        if layer.shape[0] < layer.shape[1]:
            sides = sides[::-1]
    return {
        "singular_value": [singular_value(value, layer) for value in above.tolist()],
        "p_value": None if p_values is None else p_values.tolist(),
        "strength": None if signal is None else signal.strength.tolist(),
        "overlap_out": None if sides is None else sides[0].tolist(),
        "overlap_in": None if sides is None else sides[1].tolist(),
        "porter_thomas_out": None if plan.vectors is None else plan.vectors.out.tolist(),
        "porter_thomas_in": None if plan.vectors is None else plan.vectors.into.tolist(),
    }


def singular_value(eigenvalue: float, layer: Layer) -> float:
    """S = √(n λ): an eigenvalue of WᵀW/n as a singular value of the layer's weight."""
    return math.sqrt(max(layer.shape) * eigenvalue)


def _calibrated(calibrated: Calibrated | None) -> dict[str, Any] | None:
    if calibrated is None:
        return None
    settings = calibrated.settings
    return {
        "data": None if settings.data is None else str(settings.data),
        "stats": None if settings.stats is None else str(settings.stats),
        "metric": settings.metric,
        "batch": settings.batch,
        "sequential": settings.sequential,
        "heal": settings.heal,
        "samples": calibrated.samples,
        "bytes": calibrated.bytes,
    }
