"""Figures of curves and training runs, drawn with matplotlib (the extra ``report``)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import fields
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rmtcli.files import write_file
from rmtcli.report.base import Report
from rmtcli.report.extras import check_extra
from rmtcli.report.headline import sizes
from rmtcli.training.step import Change

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from rmtcli.evaluation import Comparison

#: File endings that a figure may have.
ENDINGS = (".svg", ".png", ".pdf")
#: Largest number of layers with a legend.
LEGEND = 12


def check_plots() -> None:
    """Check, before any work is done, that figures can be drawn.

    Raises:
        UsageError: matplotlib is not installed.
    """
    check_extra("figures need", "matplotlib")


def draw_curve(report: Report, path: Path) -> None:
    """Draw accuracy, or the user's own score, against the share of parameters or bytes.

    The band is one standard error of the accuracy lost, from the samples on which the networks
    differ.

    Args:
        report: the report of ``curve``.
        path: file to write; the caller has checked that it can be written.
    """
    save_figure(curve_figure(report), path)


def curve_figure(report: Report, *, titled: bool = True) -> Figure:
    """The figure of :func:`draw_curve`.

    Args:
        report: the report of ``curve``.
        titled: whether the file's name is the title.
    """
    from matplotlib.figure import Figure

    figure = Figure(figsize=(6.0, 3.8), layout="constrained")
    axes = figure.subplots()
    draw_axes(report, axes)
    if titled:
        axes.set_title(Path(report.source.path).name, fontsize=10, parse_math=False)
    return figure


def draw_training(rows: Sequence[Mapping[str, Any]], path: Path) -> None:
    """Draw ranks, parameters and all other logged values against time.

    Args:
        rows: a pruner's log, as :func:`rmtcli.training.read_log` returns it.
        path: file to write; the caller has checked that it can be written.
    """
    from matplotlib.figure import Figure
    from matplotlib.ticker import MaxNLocator

    layers = list(dict.fromkeys(row["layer"] for row in rows))
    first = [row for row in rows if row["layer"] == layers[0]]
    known = {field.name for field in fields(Change)} | {"time", "parameters"}
    metrics = list(dict.fromkeys(key for row in rows for key in row if key not in known))
    figure = Figure(figsize=(6.0, 1.9 * (2 + len(metrics))), layout="constrained")
    panels = figure.subplots(2 + len(metrics), sharex=True)
    for layer in layers:
        own = [row for row in rows if row["layer"] == layer]
        label = layer.removesuffix(".weight")
        panels[0].step(*_pairs(own, "rank"), where="post", label=label)
    panels[0].set_ylabel("rank")
    if len(layers) <= LEGEND:
        panels[0].legend(fontsize=8, ncols=2)
    panels[1].step(*_pairs(first, "parameters"), where="post", color="0.2")
    panels[1].set_ylabel("parameters")
    for panel, metric in zip(panels[2:], metrics, strict=True):
        panel.plot(*_pairs(first, metric), marker="o", markersize=3, color="0.2")
        panel.set_ylabel(metric)
    for panel in panels:
        panel.grid(alpha=0.3)
        panel.xaxis.set_major_locator(MaxNLocator(integer=True))
    panels[1].set_ylim(bottom=0)
    panels[1].yaxis.set_major_formatter("{x:,.0f}")
    panels[-1].set_xlabel("calls of the pruner")
    save_figure(figure, path)


def _pairs(rows: Sequence[Mapping[str, Any]], name: str) -> tuple[list[int], list[float]]:
    kept = [row for row in rows if row.get(name) is not None]
    return [row["time"] for row in kept], [row[name] for row in kept]


def save_figure(figure: Figure, path: Path) -> None:
    """Write a figure completely or not at all, in the format of the path's ending."""
    from matplotlib import rc_context

    # Without a date and random names, equal figures give equal bytes.
    notes = {".svg": {"Date": None}, ".pdf": {"CreationDate": None}}.get(path.suffix)
    with rc_context({"svg.hashsalt": "rmtcli"}):
        write_file(
            path, lambda file: figure.savefig(file, format=path.suffix[1:], dpi=300, metadata=notes)
        )


def quality(comparison: Comparison) -> str:
    """The measure of a network's quality, for an axis."""
    compared = (
        ""
        if comparison.samples and comparison.samples.targets is not None
        else (" with the dense network")
    )
    if comparison.rows.needs_targets:
        compared = ""
    return f"{comparison.rows.points}{compared}, %"


def draw_axes(report: Report, axes: Axes) -> None:
    """Draw accuracy, or the user's own score, of each network against its size."""
    sized = [sizes(report, point) for point in report.curve]
    shares = [100 * after / before for before, after, _ in sized]
    own = report.curve[0].comparison.after.accuracy is None
    label = "score" if own else quality(report.curve[0].comparison)
    after = [p.comparison.after.score if own else p.comparison.after.accuracy for p in report.curve]
    values = [value for value in after if value is not None]
    axes.plot(shares, values, marker="o", markersize=4, label="pruned")
    errors = [point.error for point in report.curve]
    if not own and None not in errors:
        low, high = (
            [v + sign * (e or 0.0) for v, e in zip(values, errors, strict=True)] for sign in (-1, 1)
        )
        axes.fill_between(shares, low, high, alpha=0.25)
    before = report.curve[0].comparison.before
    dense = None if before is None else before.score if own else before.accuracy
    if dense is not None:
        axes.axhline(dense, color="0.4", linestyle="--", linewidth=1, label="dense")
    axes.set_xscale("log")
    axes.set_xticks(shares, [f"{share:.2g}" for share in shares], minor=False)
    axes.minorticks_off()
    axes.tick_params(axis="x", labelsize=8)
    axes.set_xlabel(f"{sized[0][2]} left, %")
    axes.set_ylabel(label)
    axes.grid(alpha=0.3)
    axes.legend(loc="lower right")
