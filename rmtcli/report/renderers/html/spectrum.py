"""The spectrum of a layer on the page.

The bars are those of the figures for papers, equally wide in the eigenvalues of WᵀW/n; the axis
shows singular values, in which the table gives the edge.
"""

from __future__ import annotations

from markupsafe import Markup

from rmtcli.arrays import FloatArray
from rmtcli.planning import LayerPlan
from rmtcli.report.esd import Esd, esd_of
from rmtcli.report.renderers.html.svg import (
    Axis,
    frame,
    label,
    line,
    path,
    powers,
    stairs,
    svg,
    ticks,
)

#: Width and height, twice the pixels of a phone.
SIZE = (720, 380)
#: Points of the law's curve that are left out between two that are drawn.
_COARSE = 3


def spectrum_svg(plan: LayerPlan, text: str) -> Markup:
    """The histogram of a layer's singular values, with law, edge and spikes.

    Args:
        plan: the layer.
        text: what a screen reader reads.
    """
    esd = esd_of(plan)
    total = esd.dropped + esd.kept
    smooth = 0.0 if esd.smooth is None else float(esd.smooth[1].max())
    x = Axis(float(esd.bins[0]), float(esd.bins[-1]), 76, 704, esd.logarithmic)
    y = Axis(0, 1.15 * max(float(total.max()), smooth, 1.0), 304, 16)
    marks = [(value**2 / plan.spectrum.n, f"{value:.4g}") for value in _singular(plan, x)]
    parts = [
        frame(x, y, marks, ticks(0, y.high, 3)),
        path(stairs(x, y, esd.bins, total.tolist()), "kept"),
        path(stairs(x, y, esd.bins, esd.dropped.tolist()), "dropped"),
        *_law(esd, x, y),
        *_edge(esd, x, y),
        _spikes(esd.spikes, x, y),
        label("singular value s", 390, 368),
        label("count", 24, 160, "rotated"),
    ]
    return svg(parts, SIZE, text)


def _singular(plan: LayerPlan, x: Axis) -> list[float]:
    """Round singular values for the axis."""
    low, high = map(plan.spectrum.singular_value, (max(x.low, 0.0), x.high))
    return powers(low, high) if x.logarithmic else ticks(low, high, 5)


def _law(esd: Esd, x: Axis, y: Axis) -> list[str]:
    if esd.smooth is None:
        return []
    points = list(zip(*(values[::_COARSE].tolist() for values in esd.smooth), strict=True))
    return [path(line((x(value), y(count)) for value, count in points), "law")]


def _edge(esd: Esd, x: Axis, y: Axis) -> list[str]:
    if not esd.bins[0] <= esd.edge <= esd.bins[-1]:
        return []
    parts = []
    if esd.interval is not None:
        low, high = map(x, esd.interval)
        parts.append(path(f"M{low} {y.start}V{y.end}H{high}V{y.start}Z", "band"))
    return [*parts, path(f"M{x(esd.edge)} {y.start}V{y.end}", "edge")]


def _spikes(values: FloatArray, x: Axis, y: Axis) -> str:
    """A short mark at the top for each spike, where no bar hides it."""
    positions = dict.fromkeys(map(x, values.tolist()))
    return path("".join(f"M{left} {y.end}v16" for left in positions), "spikes")
