"""A layer's spectral density as a line of text."""

from __future__ import annotations

import numpy as np

from rmtcli.arrays import FloatArray
from rmtcli.planning import LayerPlan
from rmtcli.report.esd import axis

#: Bars in a line, without the sign of the edge.
CELLS = 12
#: Eight heights; a bar without eigenvalues is blank.
_BARS = "▁▂▃▄▅▆▇█"
#: The sign of the edge.
EDGE = "┊"


def sparkline(plan: LayerPlan, cells: int = CELLS) -> tuple[str, str]:
    """Eigenvalues of WᵀW/n as bars, on both sides of the edge.

    The axis is the same as in the figures. A bar ends at the edge, so the bars to its right hold
    spikes only. Heights are proportional to the square root of the counts, so that a single spike
    is visible next to hundreds of eigenvalues.

    Args:
        plan: the layer.
        cells: number of bars on both sides together.

    Returns:
        The bars below the edge and the bars above it; together ``cells`` characters.
    """
    values, edge = plan.spectrum.eigenvalues, plan.fit.edge
    low, high, logarithmic = axis(plan)
    scale = np.log if logarithmic else np.asarray
    ends = scale(np.array([low, min(max(edge, low), high), high]))
    share = float((ends[1] - ends[0]) / (ends[2] - ends[0]))
    below = min(max(round(cells * share), 1), cells - 1) if plan.spikes else cells
    inside = scale(np.clip(values, low, high))
    cut = len(values) - plan.spikes
    counts = [
        _counts(inside[:cut], float(ends[0]), float(ends[1 if plan.spikes else 2]), below),
        _counts(inside[cut:], float(ends[1]), float(ends[2]), cells - below),
    ]
    tallest = max(int(part.max(initial=0)) for part in counts) or 1
    left, right = ("".join(_bar(count / tallest) for count in part) for part in counts)
    return left, right


def _counts(values: FloatArray, low: float, high: float, cells: int) -> FloatArray:
    """Number of values in each of ``cells`` equally wide bars; values outside go to the nearest."""
    if not cells:
        return np.zeros(0)
    indices = np.clip((values - low) / max(high - low, 1e-300) * cells, 0, cells - 1)
    return np.bincount(indices.astype(np.int64), minlength=cells).astype(np.float64)


def _bar(share: float) -> str:
    return _BARS[max(0, round(share**0.5 * len(_BARS)) - 1)] if share else " "
