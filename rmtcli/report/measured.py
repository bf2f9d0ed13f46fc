"""Scores as plain values for JSON."""

from __future__ import annotations

from dataclasses import asdict
from typing import TYPE_CHECKING, Any

import numpy as np

from rmtcli.arrays import FloatArray

if TYPE_CHECKING:
    from rmtcli.evaluation import Comparison

#: Quantiles at which the distributions of margins and cosines are reported.
QUANTILES = (0.05, 0.25, 0.5, 0.75, 0.95)


def measured(comparison: Comparison | None) -> dict[str, Any]:
    """The scores of two networks side by side; a number that was not measured is None."""
    if comparison is None:
        return {"measured": False}
    samples = comparison.samples
    before, after, unhealed = comparison.before, comparison.after, comparison.unhealed
    return {
        "measured": True,
        "network": comparison.network,
        "task": comparison.rows.value,
        "task_reason": comparison.reading.why or None,
        "probabilities": comparison.reading.probabilities,
        "at_chance": comparison.at_chance,
        "data": None if samples is None else str(samples.path),
        "samples": 0 if samples is None else len(samples.inputs),
        "bytes_scaled": samples is not None and samples.scaled,
        "before": before and before.accuracy,
        "unhealed": unhealed and unhealed.accuracy,
        "after": after.accuracy,
        "drop": comparison.drop,
        "cosine": _cosines(comparison),
        "perplexity": _three(comparison, "perplexity"),
        "squared_error": _three(comparison, "squared_error"),
        "relative_change": comparison.relative_change,
        "agreement": comparison.agreement,
        "kl_divergence": comparison.divergence,
        "certificate": comparison.certificate and asdict(comparison.certificate),
        "margins": _margins(comparison),
        "stability": _stability(comparison),
        "score": _three(comparison, "score"),
    }


def _three(comparison: Comparison, name: str) -> dict[str, float | None]:
    """One number of the dense network, of the network before training, and of the result."""
    networks = {
        "before": comparison.before,
        "unhealed": comparison.unhealed,
        "after": comparison.after,
    }
    return {key: getattr(scores, name, None) for key, scores in networks.items()}


def quantiles(values: FloatArray) -> list[float]:
    """The quantiles of the values at :data:`QUANTILES`."""
    return [float(value) for value in np.quantile(values, QUANTILES)]


def _cosines(comparison: Comparison) -> dict[str, Any] | None:
    cosines = comparison.cosines
    if cosines is None:
        return None
    return {
        "mean": float(cosines.mean()),
        "quantiles": list(QUANTILES),
        "values": quantiles(cosines),
    }


def _margins(comparison: Comparison) -> dict[str, Any] | None:
    if comparison.margins is None:
        return None
    before, after = comparison.margins
    return {
        "quantiles": list(QUANTILES),
        "before": None if before is None else quantiles(before),
        "after": quantiles(after),
    }


def _stability(comparison: Comparison) -> dict[str, Any] | None:
    if comparison.stability is None:
        return None
    before, after = comparison.stability
    return {"before": before and asdict(before), "after": asdict(after)}
