"""A report as one HTML page that works offline (the extra ``report``)."""

from __future__ import annotations

from importlib.util import find_spec
from typing import Any

from rmtcli.errors import UsageError
from rmtcli.plan import LayerPlan, Layout
from rmtcli.report.base import Report
from rmtcli.report.html.figures import curve_figure, esd_figure
from rmtcli.report.rows import NUMERIC, shown, summary, table
from rmtcli.version import __version__

#: Layers that get a figure; a page of more would be slow to open.
FIGURES = 200


def check_html() -> None:
    """Make sure, before any work, that pages can be made.

    Raises:
        UsageError: Jinja2 or matplotlib is not installed.
    """
    if find_spec("jinja2") is None or find_spec("matplotlib") is None:
        raise UsageError("HTML reports need Jinja2 and matplotlib: pip install 'rmtcli[report]'")


def to_html(report: Report, command: str | None = None) -> str:
    """A page with totals, summary, the table of layers, and a figure a layer.

    Nothing in it is loaded from elsewhere. The same report gives the same page.

    Args:
        report: the report.
        command: the command line that made it, or None from Python.
    """
    from jinja2 import Environment, PackageLoader, StrictUndefined

    environment = Environment(
        loader=PackageLoader("rmtcli.report", "html"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["shown"] = shown
    columns, rows = table(report) if report.layers or report.curve else ([], [])
    return environment.get_template("report.html").render(
        report=report,
        command=command,
        version=__version__,
        totals=_totals(report),
        summary=summary(report),
        columns=columns,
        numeric=NUMERIC,
        rows=rows,
        layers=[_layer(plan, i) for i, plan in enumerate(report.layers[:FIGURES])],
        left_out=max(0, len(report.layers) - FIGURES),
        curve=curve_figure(report) if report.curve else None,
    )


def _totals(report: Report) -> list[tuple[str, int, int]]:
    """What a size may mean, before and after: four ways, as far as they are known."""
    if report.layout is None or report.curve:
        return []
    before, after = report.pruned_parameters
    macs = [plan.layer.size for plan in report.layers]
    left = [_macs(plan, report.layout) for plan in report.layers]
    totals = [
        ("parameters of the pruned layers", before, after),
        ("parameters of the model", *report.parameters),
        ("multiply–adds of the layers, at one position", sum(macs), sum(left)),
    ]
    if report.output is not None:
        totals.append(("bytes on disk", report.source.bytes, report.output.bytes))
    return totals


def _macs(plan: LayerPlan, layout: Layout) -> int:
    factored = plan.untouched is None and layout is Layout.FACTORED
    return plan.factored_size if factored else plan.layer.size


def _layer(plan: LayerPlan, index: int) -> dict[str, Any]:
    kept = (
        "all" if plan.untouched is not None else f"{plan.rank} of {len(plan.spectrum.eigenvalues)}"
    )
    alt = f"{plan.spikes} eigenvalues above the edge; kept: {kept}; {plan.fit.verdict.value}"
    why = plan.untouched.value if plan.untouched is not None else plan.fit.verdict.value
    return {
        "name": shown(plan.layer.name),
        "figure": esd_figure(plan, index),
        "alt": alt,
        "why": why,
    }
