"""Figures as SVG text, in colours that the page chooses."""

from __future__ import annotations

import io
import re
from typing import TYPE_CHECKING

import numpy as np

from rmtcli.plan import LayerPlan
from rmtcli.report.base import Report

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

#: Bars of a histogram.
BINS = 40
#: A spectrum wider than this is drawn on a logarithmic axis.
_WIDE = 25.0
#: What matplotlib draws with, and what the page puts in its place.
_COLOURS = {
    "ink": ("#010101", "currentColor"),
    "kept": ("#020202", "var(--kept)"),
    "dropped": ("#030303", "var(--dropped)"),
    "law": ("#040404", "var(--law)"),
    "edge": ("#050505", "var(--edge)"),
}
_INK, _KEPT, _DROPPED, _LAW, _EDGE = (name for name, _ in _COLOURS.values())


def esd_figure(plan: LayerPlan, index: int) -> str:
    """A layer's empirical spectral density beside the fitted law, its edge and its spikes.

    Args:
        plan: the layer.
        index: its place in the report, which keeps the figure's names apart from others'.
    """
    figure, axes = _blank(4.2, 2.2)
    values = plan.spectrum.eigenvalues
    positive = values[values > 0]
    if len(positive):
        _draw(axes, plan, positive)
    axes.set_xlabel("eigenvalue of WᵀW/n")
    axes.set_yticks([])
    return _svg(figure, f"layer{index}")


def _draw(axes: Axes, plan: LayerPlan, values: np.ndarray) -> None:
    wide = values[-1] > _WIDE * np.median(values)
    low, high = float(values[0]) if wide else 0.0, float(values[-1])
    bins = np.geomspace(low, high, BINS + 1) if wide else np.linspace(low, high, BINS + 1)
    kept = len(values) if plan.untouched is not None else min(plan.rank, len(values))
    parts = [values[: len(values) - kept], values[len(values) - kept :]]
    axes.hist(
        parts, bins.tolist(), stacked=True, color=[_DROPPED, _KEPT], label=["dropped", "kept"]
    )
    law, fit = plan.fit.law, plan.fit
    if law.sigma > 0:
        x = np.linspace(law.lambda_minus, law.lambda_plus, 90)[1:-1]
        widths = np.log(bins[1] / bins[0]) * x if wide else bins[1] - bins[0]
        bulk = plan.spectrum.p - plan.spikes
        axes.plot(x, bulk * law.pdf(x) * widths, color=_LAW, linewidth=1.6, label="fitted law")
    if fit.edge > 0:
        if fit.edge_interval is not None:
            axes.axvspan(*fit.edge_interval, color=_EDGE, alpha=0.25, linewidth=0)
        axes.axvline(fit.edge, color=_EDGE, linewidth=1.2, label="edge")
    if plan.spikes:
        above = plan.above
        axes.plot(
            above,
            np.full(len(above), -0.03),
            "|",
            color=_EDGE,
            markersize=5,
            transform=axes.get_xaxis_transform(),
            clip_on=False,
            label="spikes",
        )
    if wide:
        axes.set_xscale("log")
    axes.legend(fontsize=8, frameon=False, labelcolor=_INK)


def curve_figure(report: Report) -> str:
    """Accuracy, or the user's own score, against size."""
    from rmtcli.report.plot import draw_axes

    figure, axes = _blank(4.2, 2.6)
    draw_axes(report, axes)
    return _svg(figure, "curve")


def _blank(width: float, height: float) -> tuple[Figure, Axes]:
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), layout="constrained")
    axes = figure.subplots()
    axes.spines[["top", "right"]].set_visible(False)
    axes.tick_params(colors=_INK, labelsize=8)
    for spine in axes.spines.values():
        spine.set_color(_INK)
    for label in (axes.xaxis.label, axes.yaxis.label):
        label.set_color(_INK)
        label.set_fontsize(9)
    return figure, axes


def _svg(figure: Figure, name: str) -> str:
    """The figure's text, without what another program added, scaled by the page."""
    from matplotlib import rc_context

    file = io.StringIO()
    with rc_context({"svg.hashsalt": name, "svg.fonttype": "none"}):
        figure.savefig(file, format="svg", transparent=True, metadata={"Date": None})
    text = file.getvalue()
    text = text[text.index("<svg") :]
    text = re.sub(r"<metadata>.*?</metadata>", "", text, flags=re.S)
    text = re.sub(r'<g id="[^"]*"', "<g", text)
    text = re.sub(r"<!--.*?-->\s*", "", text, flags=re.S)
    text = re.sub(r' (width|height)="[\d.]+pt"', "", text, count=2)
    text = re.sub(r"font: ([\d.]+)px '[^']*'[^;\"]*", r"font: \1px sans-serif", text)
    for drawn, shown in _COLOURS.values():
        text = text.replace(drawn, shown)
    return text.replace("<svg ", '<svg aria-hidden="true" ', 1)
