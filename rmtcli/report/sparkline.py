"""A layer's spectral density in a line of text."""

from __future__ import annotations

import numpy as np

from rmtcli.arrays import FloatArray
from rmtcli.planning import LayerPlan
from rmtcli.report.esd import axis

#: Bars of a line, the edge's sign not counted.
CELLS = 12
#: Eight heights; a bar without eigenvalues is blank.
_BARS = "▁▂▃▄▅▆▇█"
#: Where the edge is.
EDGE = "┊"


def sparkline(plan: LayerPlan, cells: int = CELLS) -> tuple[str, str]:
    """Eigenvalues of WᵀW/n as bars, on both sides of the edge.

    The axis is that of the figures. Bars end at the edge, so what stands on its right are the
    spikes and nothing else. Heights go with the square root of the counts, so that a single spike
    can be seen beside hundreds of eigenvalues.

    Args:
        plan: the layer.
        cells: bars on both sides together.

    Returns:
        The bars below the edge and those above it; together ``cells`` characters.
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
    """How many values are in each of some equally wide bars; outside, in the nearest one."""
    if not cells:
        return np.zeros(0)
    places = np.clip((values - low) / max(high - low, 1e-300) * cells, 0, cells - 1)
    return np.bincount(places.astype(np.int64), minlength=cells).astype(np.float64)


def _bar(share: float) -> str:
    return _BARS[max(0, round(share**0.5 * len(_BARS)) - 1)] if share else " "
