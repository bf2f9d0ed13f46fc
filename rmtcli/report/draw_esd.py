"""The figure of one layer's spectrum, for pages and for papers."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from rmtcli.arrays import FloatArray
from rmtcli.report.esd import Esd

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

#: Role -> colour, from Okabe and Ito (2008): colour-blind readers can tell them apart.
PALETTE = {
    "kept": "#0072b2",
    "dropped": "#b9bec6",
    "law": "#d55e00",
    "edge": "#a8327e",
    "spikes": "#00795a",
}
#: Width and height in inches; text of 9 points stays readable at the width of a phone.
SIZE = (4.4, 2.6)
#: Spikes closer to each other than this share of the axis are drawn as one mark.
_NEAR = 1 / 300
#: An axis whose ends differ by a smaller factor has ticks between powers of ten.
_FEW = 50


def esd_figure(esd: Esd, *, legend: bool) -> Figure:
    """Draw the histogram, with dropped and kept eigenvalues apart, and law, edge and spikes.

    Args:
        esd: the histogram.
        legend: whether the figure has a legend; a page has one for all figures.
    """
    from matplotlib.figure import Figure

    figure = Figure(figsize=SIZE)
    axes = figure.subplots()
    figure.subplots_adjust(left=0.12, right=0.96, bottom=0.19, top=0.82 if legend else 0.96)
    _draw(axes, esd)
    if legend:
        axes.legend(loc="lower center", bbox_to_anchor=(0.47, 1.0), ncols=5, fontsize=7,
                    frameon=False, columnspacing=1.0, handlelength=1.4)  # fmt: skip
    return figure


def _draw(axes: Axes, esd: Esd) -> None:
    total = esd.dropped + esd.kept
    if esd.logarithmic:
        _logarithmic(axes, esd)
    else:
        axes.locator_params(axis="x", nbins=5)
    if esd.dropped.any():
        axes.stairs(esd.dropped, esd.bins, fill=True, color=PALETTE["dropped"], label="dropped")
    axes.stairs(
        total, esd.bins, baseline=esd.dropped, fill=True, color=PALETTE["kept"], label="kept"
    )
    if esd.smooth is not None:
        axes.plot(*esd.smooth, color=PALETTE["law"], linewidth=1.6, label="law")
    if esd.bins[0] <= esd.edge <= esd.bins[-1]:
        if esd.interval is not None:
            low, high = max(esd.interval[0], float(esd.bins[0])), esd.interval[1]
            axes.axvspan(low, high, color=PALETTE["edge"], alpha=0.25, linewidth=0)
        axes.axvline(esd.edge, color=PALETTE["edge"], linestyle="--", linewidth=1.2, label="edge")
    _mark_spikes(axes, esd)
    axes.set_xlim(esd.bins[0], esd.bins[-1])
    axes.set_ylim(0, 1.15 * max(float(total.max()), _highest(esd)))
    axes.set_xlabel("eigenvalue of WᵀW/n")
    axes.set_ylabel("count")
    axes.spines[["top", "right"]].set_visible(False)


def _logarithmic(axes: Axes, esd: Esd) -> None:
    """Ticks at powers of ten, and at 2 and 5 times these if the axis spans few of them."""
    from matplotlib.ticker import LogFormatterSciNotation, LogLocator, NullFormatter

    axes.set_xscale("log")
    axes.xaxis.set_minor_formatter(NullFormatter())
    if esd.bins[-1] < _FEW * esd.bins[0]:
        axes.xaxis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0)))
        axes.xaxis.set_major_formatter(LogFormatterSciNotation(labelOnlyBase=False))


def _highest(esd: Esd) -> float:
    return 0.0 if esd.smooth is None else float(esd.smooth[1].max())


def _mark_spikes(axes: Axes, esd: Esd) -> None:
    """Draw a short mark at the top for each spike, where no bar hides it, as one path."""
    if not len(esd.spikes):
        return
    positions = _apart(esd)
    x = np.repeat(positions, 3)
    y = np.tile([0.93, 1.0, np.nan], len(positions))
    top = axes.get_xaxis_transform()
    axes.plot(x, y, color=PALETTE["spikes"], linewidth=1.0, label="spikes", transform=top)


def _apart(esd: Esd) -> FloatArray:
    """The spikes without those that would be drawn on top of each other."""
    values, ends = esd.spikes, esd.bins[[0, -1]]
    if esd.logarithmic:
        values, ends = np.log(values), np.log(ends)
    grid = np.round((values - ends[0]) / (ends[1] - ends[0]) / _NEAR)
    return esd.spikes[np.unique(grid, return_index=True)[1]]
