"""Scores as plain values for JSON."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

import numpy as np

from rmtcli.arrays import FloatArray
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
        "perplexity": {
            "before": before and before.perplexity,
            "unhealed": unhealed and unhealed.perplexity,
            "after": after.perplexity,
        },
        "squared_error": {
            "before": before and before.squared_error,
            "unhealed": unhealed and unhealed.squared_error,
            "after": after.squared_error,
        },
        "relative_change": comparison.relative_change,
        "agreement": comparison.agreement,
        "kl_divergence": comparison.divergence,
        "certificate": comparison.certificate and asdict(comparison.certificate),
        "margins": _margins(comparison),
        "score": {
            "before": before and before.score,
            "unhealed": unhealed and unhealed.score,
            "after": after.score,
        },
    }


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
