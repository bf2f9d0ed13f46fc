"""The parts of a report as plain values, in the form that JSON holds and ``schema.json`` states."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from rmtcli.arrays import FloatArray
from rmtcli.checkpoint.dtypes import TYPES
from rmtcli.layouts import LAYOUTS, ReadBack
from rmtcli.planning import Latency, LayerPlan, Timing
from rmtcli.version import __version__

if TYPE_CHECKING:
    from rmtcli.calibration import Calibrated, Reliability

#: Version of the JSON layout; it rises when a field changes its meaning or goes away.
SCHEMA_VERSION = 1


def header() -> dict[str, Any]:
    """The fields that every JSON record begins with."""
    return {"schema_version": SCHEMA_VERSION, "rmtcli_version": __version__}


def as_text(record: Mapping[str, Any], *, ascii_only: bool = False) -> str:
    """A record as indented JSON text.

    Args:
        record: plain values.
        ascii_only: whether to write every other character as an escape.

    Raises:
        ValueError: a number is not finite.
    """
    return json.dumps(record, indent=2, allow_nan=False, ensure_ascii=ascii_only)


def change_of(before: float, after: float) -> dict[str, Any]:
    """Two quantities and their ratio, which is None where the first is 0."""
    return {"before": before, "after": after, "ratio": after / before if before else None}


def times_of(before: Timing, after: Timing) -> dict[str, Any]:
    """Two median times in seconds, their ratio, and their quartiles."""
    return change_of(before.median, after.median) | {
        "before_quartiles": [before.low, before.high],
        "after_quartiles": [after.low, after.high],
    }


def readback_of(readback: ReadBack | None) -> dict[str, int] | None:
    """The number of tensors and of layers that were read back from the output."""
    if readback is None:
        return None
    return {"tensors": readback.tensors, "layers": len(readback.errors)}


def latency_of(latency: Latency) -> dict[str, Any]:
    """The forward times at one batch size, in seconds."""
    return {
        "batch": latency.batch,
        "device": latency.device,
        "threads": latency.threads,
        "layers": times_of(*latency.total) if latency.layers else None,
        "network": None if latency.network is None else times_of(*latency.network),
        "slower": list(latency.slower),
    }


def calibrated_of(calibrated: Calibrated | None) -> dict[str, Any] | None:
    """The settings of the calibration, and the extent of the data."""
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
        "heal_minutes": settings.heal_minutes,
        "clean": settings.clean,
        "undone": list(calibrated.undone),
        "samples": calibrated.samples,
        "bytes": calibrated.bytes,
        "reliability": _reliability_of(calibrated.reliability),
    }


def _reliability_of(reliability: Reliability | None) -> dict[str, Any] | None:
    """How far the moments can be trusted; a number that is not known is None."""
    if reliability is None:
        return None
    loss = reliability.loss
    return {
        "independent_inputs": _range_of(reliability.inputs),
        "independent_gradients": _range_of(reliability.gradients),
        "aspect_ratio": reliability.aspect,
        "loss": None if loss is None else loss.own,
        "held_out_loss": None if loss is None else loss.apart,
        "held_out_layers": 0 if loss is None else loss.layers,
        "more_samples": reliability.more,
    }


def _range_of(values: tuple[float, float, float] | None) -> dict[str, float] | None:
    """The least, the median and the largest of some values."""
    names = ("least", "median", "largest")
    return None if values is None else dict(zip(names, values, strict=True))


def layer_of(
    plan: LayerPlan, *, readback: ReadBack | None, latency: Sequence[Latency]
) -> dict[str, Any]:
    """Everything that is known about one layer."""
    return _identity(plan) | _fit(plan) | _spikes(plan) | _decision(plan, readback, latency)


def _identity(plan: LayerPlan) -> dict[str, Any]:
    layer = plan.layer
    return {
        "name": layer.name,
        "aliases": list(layer.tied),
        "shape": list(layer.shape),
        "dtype": TYPES[layer.dtype].word,
        "n": max(layer.shape),
        "p": min(layer.shape),
    }


def _fit(plan: LayerPlan) -> dict[str, Any]:
    fit, spectrum = plan.fit, plan.spectrum
    return {
        "gamma": fit.law.gamma,
        "sigma": fit.law.sigma,
        "lambda_plus": fit.law.lambda_plus,
        "edge": fit.edge,
        "edge_singular_value": spectrum.singular_value(fit.edge),
        "largest_singular_value": spectrum.singular_value(plan.largest),
        "sigma_error": fit.sigma_error,
        "edge_interval": fit.edge_interval,
        "ks_distance": fit.ks_distance,
        "fit_p_value": fit.p_value,
        "estimator": fit.chosen or None,
        "verdict": fit.verdict.name.lower(),
        "verdict_text": fit.verdict.value,
    }


def _spikes(plan: LayerPlan) -> dict[str, Any]:
    return {
        "spikes": plan.spikes,
        "spike_table": _spike_table(plan),
        "diagnostics": asdict(plan.diagnostics),
    }


def _decision(
    plan: LayerPlan, readback: ReadBack | None, latency: Sequence[Latency]
) -> dict[str, Any]:
    layer, untouched = plan.layer, plan.untouched
    return {
        "break_even_rank": layer.break_even_rank,
        "rank": plan.rank,
        "shares_right_factor_with": plan.shares_with,
        "pruned": untouched is None,
        "macs_per_position": change_of(layer.size, plan.macs),
        "reason": None if untouched is None else untouched.name.lower(),
        "reason_text": None if untouched is None else untouched.value,
        "relative_error": plan.relative_error,
        "stored_error": readback.errors.get(layer.name) if readback else None,
        "layout": None if untouched else LAYOUTS.spell(plan.layout),
        "narrowed": None if plan.narrowed is None else list(plan.narrowed),
        "bits": plan.bits,
        "predicted_loss": plan.predicted_loss,
        "parameters": change_of(layer.size, plan.size),
        "latency": [
            {"batch": timed.batch} | times_of(*timed.layers[layer.name])
            for timed in latency
            if layer.name in timed.layers
        ],
    }


def _spike_table(plan: LayerPlan) -> dict[str, list[float] | None]:
    """One list per quantity, with an entry per spike, largest first.

    None stands where the estimator has no theory of the quantity, or no vectors were computed.
    """
    layer, fit, above = plan.layer, plan.fit, plan.above
    p_values, signal = fit.p_values(above), fit.signal(max(layer.shape), above)
    sides: tuple[FloatArray, FloatArray] | None = None
    if signal is not None:
        sides = signal.long_overlap, signal.short_overlap
        if layer.shape[0] < layer.shape[1]:
            sides = sides[::-1]
    return {
        "singular_value": [plan.spectrum.singular_value(value) for value in above.tolist()],
        "p_value": None if p_values is None else p_values.tolist(),
        "strength": None if signal is None else signal.strength.tolist(),
        "overlap_out": None if sides is None else sides[0].tolist(),
        "overlap_in": None if sides is None else sides[1].tolist(),
        "porter_thomas_out": None if plan.vectors is None else plan.vectors.out.tolist(),
        "porter_thomas_in": None if plan.vectors is None else plan.vectors.into.tolist(),
    }
