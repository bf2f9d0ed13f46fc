"""The page of a report, and of the difference between two checkpoints."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from rmtcli.planning import LayerPlan
from rmtcli.report.advice import advice
from rmtcli.report.base import Report
from rmtcli.report.difference import Difference
from rmtcli.report.formatting import shown, word_of
from rmtcli.report.headline import next_steps
from rmtcli.report.renderers.html.content import Grid, Page, Panel, Row, Tile
from rmtcli.report.renderers.html.curve import curve_svg
from rmtcli.report.renderers.html.map import FEW, MAPPED, map_of, map_of_difference
from rmtcli.report.renderers.html.spectrum import spectrum_svg
from rmtcli.report.renderers.html.tiles import tiles
from rmtcli.report.summary import options, summary
from rmtcli.report.table import NUMERIC, action, table
from rmtcli.report.totals import totals

#: Largest number of panels, so that the page of a model with many layers stays below 5 MB.
PANELS = 1000


def page_of(report: Report, command: str | None = None, *, panels: bool = True) -> Page:
    """The page of a report.

    Args:
        report: the report.
        command: the command line that made it.
        panels: whether it has the spectra of its layers.
    """
    drawn = _drawn(report) if panels else {}
    plans = [plan for plan in report.layers if plan.layer.name in drawn]
    return Page(
        f"rmtcli {report.action}",
        report.source.path,
        list(tiles(report)),
        advice(report, command),
        dict(next_steps(report)).get("load"),
        map_of(report, drawn, MAPPED if panels else FEW),
        curve_svg(report) if report.curve else None,
        _grid(report, drawn),
        totals(report),
        [*summary(report), ("sha256 of the input", report.source.sha256)],
        options(report),
        [_panel(plan, report) for plan in plans],
        len(report.layers) - len(drawn) if panels else 0,
    )


def page_of_difference(difference: Difference) -> Page:
    """The page of the difference between two checkpoints."""
    columns, rows = difference.rows()
    values = difference.values
    widest = max(difference.layers, key=lambda layer: layer.change, default=None)
    result = [Tile("changed", f"{values['layers.changed']} of {values['layers.count']}", "layers")]
    if widest is not None:
        share = f"{100 * widest.change:.3g} %"
        result.append(Tile("most changed", share, f"of the norm of {shown(widest.name)}"))
    sizes = f"{difference.before.parameters:,} → {difference.after.parameters:,}"
    result.append(Tile("parameters", sizes, "of all tensors"))
    if difference.missing:
        result.append(Tile("not compared", str(len(difference.missing)), "layers"))
    return Page(
        "rmtcli diff",
        f"{difference.before.path} and {difference.after.path}",
        result,
        map=map_of_difference(difference),
        grid=Grid("Layers", [(column, column not in ("layer", "shape")) for column in columns],
                  [Row(cells) for cells in rows]),
        summary=difference.summary(),
        choices=[("edge", difference.edge)],
    )  # fmt: skip


def _drawn(report: Report) -> dict[str, int]:
    """The number of each layer's panel, by name: of the largest layers, if there are too many."""
    largest = sorted(report.layers, key=lambda plan: plan.layer.size, reverse=True)[:PANELS]
    names = {plan.layer.name for plan in largest}
    ordered = (plan.layer.name for plan in report.layers if plan.layer.name in names)
    return {name: number for number, name in enumerate(ordered, 1)}


def _grid(report: Report, panels: Mapping[str, int]) -> Grid | None:
    if not (report.layers or report.curve):
        return None
    columns, rows = table(report, full=True)
    names = [None] * len(rows) if report.curve else [plan.layer.name for plan in report.layers]
    return Grid(
        "Networks" if report.curve else "Layers",
        [(column, column in NUMERIC) for column in columns],
        [Row(row, panels.get(name or "")) for row, name in zip(rows, names, strict=True)],
        named=not report.curve,
    )


def _panel(plan: LayerPlan, report: Report) -> Panel:
    facts = list(_facts(plan, report))
    text = "; ".join(f"{label}: {value}" for label, value in facts)
    p = plan.spectrum.p
    figure = spectrum_svg(plan, f"Histogram of {p} singular values. {text}")
    return Panel(plan.layer.name, f"{word_of(plan.fit.verdict)}; {_decision(plan)}", figure, facts)


def _facts(plan: LayerPlan, report: Report) -> Iterator[tuple[str, str]]:
    fit, spectrum = plan.fit, plan.spectrum
    edge = f"{spectrum.singular_value(fit.edge):.4g}"
    if fit.edge_interval is not None:
        low, high = map(spectrum.singular_value, fit.edge_interval)
        edge += f" (95 %: {low:.4g} to {high:.4g})"
    sigma = f"{fit.law.sigma:.4g}"
    if fit.sigma_error is not None:
        sigma += f" ± {fit.sigma_error:.2g}"
    yield "edge s₊", edge
    yield "σ", sigma
    yield "spikes", f"{plan.spikes} of {spectrum.p}"
    yield "verdict", fit.verdict.value
    auto = report.action == "analyze" and not report.of_adapter
    yield "prune --keep auto" if auto else "action", _decision(plan)
    if plan.ranked:
        yield "error", f"{100 * plan.relative_error:.3g} % of the norm, at least"
    if plan.predicted_loss is not None:
        yield "calibrated", "the directions come from the data; the bars show only the rank"


def _decision(plan: LayerPlan) -> str:
    decision = action(plan)
    return f"rank {plan.rank} of {min(plan.shape)}, {decision}" if plan.ranked else decision
