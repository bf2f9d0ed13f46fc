"""What a result shows of itself in Python: as text, in a notebook, in files and as figures."""

from __future__ import annotations

from io import StringIO
from pathlib import Path
from typing import TYPE_CHECKING, TypeAlias

from rmtcli.errors import UsageError
from rmtcli.files import as_path, check_target
from rmtcli.report.base import Report
from rmtcli.report.difference import Difference
from rmtcli.report.formatting import shown
from rmtcli.report.headline import headline
from rmtcli.report.renderers import RENDERERS, Context, today, write_report

if TYPE_CHECKING:
    from matplotlib.figure import Figure


#: What shows itself.
Result: TypeAlias = "Report | Difference"


def as_text(result: Result) -> str:
    """The table, the result in one line and the summary, as a pipe gets them."""
    from rich.console import Console

    from rmtcli.report.terminal import PIPE_WIDTH, show, show_difference

    text = StringIO()
    console = Console(file=text, width=PIPE_WIDTH, highlight=False, emoji=False)
    if isinstance(result, Report):
        show(result, console)
    else:
        show_difference(result, console)
    return text.getvalue().rstrip("\n")


def as_words(result: Result) -> str:
    """The result in one line."""
    if not isinstance(result, Report):
        names = " and ".join(shown(source.path) for source in (result.before, result.after))
        changed = f"{result.values['layers.changed']} of {len(result.layers)} layers changed"
        return f"<Difference of {names}: {changed}>"
    title, source = headline(result), shown(result.source.path)
    words = f"{title.size}, {title.cost}" if title else f"{len(result.layers)} layers"
    return f"<Report of {result.action}: {source}: {words}>"


def as_fragment(result: Result) -> str:
    """The result, a map of the bytes and the table as a part of an HTML page."""
    from rmtcli.report.renderers.html import to_fragment

    return to_fragment(result)


def save(result: Result, path: str | Path) -> None:
    """Write a result in the format of the path's ending.

    Raises:
        UsageError: the ending names no format, a package is missing, or the file cannot be written.
    """
    target = as_path(path)
    renderer = RENDERERS.get(target.suffix)
    if renderer is None:
        raise UsageError(f"{target}: its name must end in {' or '.join(RENDERERS)}")
    renderer.check()
    both = (result.source,) if isinstance(result, Report) else (result.before, result.after)
    check_target(target, inputs=[as_path(source.path) for source in both], force=True)
    write_report(result, target, Context(made=today()))


def figure(report: Report, layer: str | None) -> Figure:
    """The curve of a report of ``curve``, or the spectrum of one layer.

    Raises:
        UsageError: there is no such layer, or matplotlib is not installed.
    """
    from rmtcli.report.draw_esd import esd_figure
    from rmtcli.report.esd import esd_of
    from rmtcli.report.plot import check_plots, curve_figure

    check_plots()
    if report.curve and layer is None:
        return curve_figure(report)
    plans = [plan for plan in report.layers if layer in (None, plan.layer.name)]
    if not plans:
        names = ", ".join(plan.layer.name for plan in report.layers[:3]) or "no layer at all"
        raise UsageError(f"the report has no layer '{layer}': it has {names}")
    return esd_figure(esd_of(plans[0]), legend=True)
