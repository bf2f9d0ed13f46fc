"""The content of the page, and its rendering (the extra ``report``)."""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from importlib.resources import files
from typing import TYPE_CHECKING, Any

from rmtcli.planning import LayerPlan
from rmtcli.report.base import Report
from rmtcli.report.esd import esd_of
from rmtcli.report.formatting import shown
from rmtcli.report.renderers.base import Context, Renderer
from rmtcli.report.renderers.html.opening import parts, tiles
from rmtcli.report.summary import options, summary
from rmtcli.report.table import NUMERIC, action, table
from rmtcli.report.totals import totals
from rmtcli.version import __version__

if TYPE_CHECKING:
    from markupsafe import Markup

#: Largest number of figures, so that the page of a model with many layers stays small.
MAX_FIGURES = 200


@dataclass(frozen=True, slots=True)
class Panel:
    """One layer on the page: its name, its figure, and facts as label and text."""

    name: str
    figure: Markup
    facts: list[tuple[str, str]]


def to_html(report: Report, context: Context) -> str:
    """One page that works offline, with figures as inline SVG; equal reports give equal bytes."""
    from jinja2 import Environment, PackageLoader, StrictUndefined
    from markupsafe import Markup

    loader = PackageLoader("rmtcli.report.renderers", "html")
    environment = Environment(
        loader=loader, autoescape=True, undefined=StrictUndefined, trim_blocks=True,
        lstrip_blocks=True,
    )  # fmt: skip
    environment.filters["shown"] = shown
    # A line may break between the parts of a name, and within a part only if it is too long.
    environment.filters["parts"] = lambda name: Markup(".<wbr>").join(name.split("."))
    script = Markup(_asset("sort.js"))
    template = environment.get_template("page.html.j2")
    return template.render(
        **_content(report),
        command=context.command,
        version=__version__,
        style=Markup(_asset("style.css")),
        script=script,
        script_hash=base64.b64encode(hashlib.sha256(script.encode()).digest()).decode(),
    )


def _content(report: Report) -> Mapping[str, Any]:
    columns, rows = table(report) if report.layers or report.curve else ([], [])
    drawn = report.layers[:MAX_FIGURES]
    return {
        "report": report,
        "tiles": list(tiles(report)),
        "parts": parts(report, MAX_FIGURES) if report.action in ("prune", "finetune") else [],
        "totals": totals(report),
        "summary": summary(report),
        "options": options(report),
        "columns": [(column, column in NUMERIC) for column in columns],
        "rows": rows,
        "curve": _curve(report) if report.curve else None,
        "panels": [_panel(plan, report, i) for i, plan in enumerate(drawn, 1)],
        "undrawn": len(report.layers) - len(drawn),
        "most": MAX_FIGURES,
    }


def _asset(name: str) -> str:
    return files("rmtcli.report.renderers.html").joinpath(name).read_text(encoding="utf-8")


def _curve(report: Report) -> Markup:
    from rmtcli.report.plot import curve_figure
    from rmtcli.report.renderers.html.svg import inline_svg

    figure = curve_figure(report, titled=False)
    text = f"{len(report.curve)} networks; the table below has their numbers."
    # matplotlib's first colour, and its greys for the grid, the frame and the dense network.
    colours = {"kept": "#1f77b4", "grid": "#b0b0b0", "muted": "#666666", "panel": "#ffffff"}
    colours |= {"line": "#cccccc"}
    return inline_svg(figure, "curve", title="Quality against size", text=text, colours=colours)


def _panel(plan: LayerPlan, report: Report, number: int) -> Panel:
    from rmtcli.report.draw_esd import PALETTE, esd_figure
    from rmtcli.report.renderers.html.svg import inline_svg

    facts = _facts(plan, report)
    text = "; ".join(f"{label}: {value}" for label, value in facts)
    figure = inline_svg(
        esd_figure(esd_of(plan), legend=False),
        f"layer-{number}",
        title=f"Eigenvalues of layer {number}",
        text=f"Histogram of {plan.spectrum.p} eigenvalues. {text}",
        colours=PALETTE,
    )
    return Panel(plan.layer.name, figure, facts)


def _facts(plan: LayerPlan, report: Report) -> list[tuple[str, str]]:
    fit, p = plan.fit, plan.spectrum.p
    edge = f"{fit.edge:.4g}"
    if fit.edge_interval is not None:
        low, high = fit.edge_interval
        edge += f" (95 %: {low:.4g} to {high:.4g})"
    sigma = f"{fit.law.sigma:.4g}"
    if fit.sigma_error is not None:
        sigma += f" ± {fit.sigma_error:.2g}"
    lines = [("edge", edge), ("σ", sigma), ("spikes", f"{plan.spikes} of {p}")]
    lines.append(("verdict", fit.verdict.value))
    decision = action(plan)
    if plan.ranked:
        decision = f"rank {plan.rank} of {min(plan.shape)}, {decision}"
    lines.append(("prune --keep auto" if report.action == "analyze" else "action", decision))
    if plan.predicted_loss is not None:
        lines.append(
            ("calibrated", "the directions come from the data; the bars show only the rank")
        )
    return lines


HTML = Renderer("HTML", ".html", to_html, needs=("jinja2", "matplotlib"))
