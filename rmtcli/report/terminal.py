"""A report on a terminal, or as plain text in a pipe."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from rich import box
from rich.console import Console, RenderableType
from rich.markup import escape
from rich.table import Table
from rich.text import Text

from rmtcli.planning import LayerPlan
from rmtcli.report.base import Report
from rmtcli.report.formatting import shown
from rmtcli.report.headline import Headline, headline
from rmtcli.report.sparkline import EDGE, sparkline
from rmtcli.report.summary import summary
from rmtcli.report.table import NUMERIC, table

if TYPE_CHECKING:
    from rmtcli.report.difference import Difference
    from rmtcli.report.reproduction import Reproduction
    from rmtcli.report.resized import Resized

#: Width of output to a file or another program, where no line may be cut or wrapped.
PIPE_WIDTH = 1_000_000
#: The column with a small picture of each layer's spectrum.
_ESD = "ESD"
#: Columns that a narrow terminal leaves out, in this order. JSON and Markdown have all of them.
_EXPENDABLE: tuple[str, ...] = ("break-even", "tail α", "s₁", "γ", "stable rank", "p", "fit", "σ")
_EXPENDABLE += (_ESD, "edge s₊", "shape", "spikes", "parameters")


def stdout() -> Console:
    """A console for results: as wide as the terminal; in a pipe, lines are never wrapped."""
    console = Console(highlight=False, emoji=False)
    if console.is_terminal:
        return console
    return Console(highlight=False, emoji=False, width=PIPE_WIDTH)


def show(report: Report, console: Console, *, details: bool = True) -> None:
    """Print the table of a report, the result in one line, and the summary.

    Args:
        report: the report.
        console: where to print it.
        details: whether to print what few users need.
    """
    parts: list[RenderableType] = []
    if report.layers or report.curve:
        parts += [_layers(report, console), ""]
    title = headline(report)
    if title is not None:
        parts += [_headline(title), ""]
    _print([*parts, _lines(summary(report, details=details))], console)


def _headline(title: Headline) -> Text:
    colour = f"bold {title.grade.value}".rstrip()
    return Text.assemble((title.size, "bold"), " · ", (shown(title.cost), colour))


def show_lines(lines: list[tuple[str, str]], console: Console) -> None:
    """Print lines of label and text."""
    _print([_lines(lines)], console)


def show_reproduction(reproduction: Reproduction, console: Console) -> None:
    """Print one row per way of training."""
    from rmtcli.report.reproduction import HEADINGS

    _print([_plain(HEADINGS, reproduction.rows())], console)


def show_difference(difference: Difference, console: Console) -> None:
    """Print one row per layer, and the summary under the table."""
    _print([_plain(*difference.rows()), "", _lines(difference.summary())], console)


def show_resized(resized: Resized, console: Console) -> None:
    """Print one row per layer of an adapter, and the summary under the table."""
    _print([_plain(*resized.rows()), "", _lines(resized.summary())], console)


def _plain(headings: Sequence[str], rows: Sequence[Sequence[str]]) -> Table:
    """A table with a column of names and columns of numbers."""
    grid = Table(box=box.SIMPLE_HEAD, pad_edge=False, show_edge=False)
    for i, heading in enumerate(headings):
        grid.add_column(heading, justify="right" if i else "left", overflow="fold")
    for row in rows:
        grid.add_row(*map(escape, row))
    return grid


def _print(parts: list[RenderableType], console: Console) -> None:
    if console.is_terminal:
        console.print(*parts, sep="\n")
        return
    with console.capture() as capture:
        console.print(*parts, sep="\n")
    lines = (line.rstrip() for line in capture.get().splitlines())
    console.file.write("\n".join(lines) + "\n")


def _lines(lines: list[tuple[str, str]]) -> Table:
    grid = Table.grid(padding=(0, 2))
    grid.add_column(no_wrap=True, style="bold")
    grid.add_column()
    for label, text in lines:
        grid.add_row(label, escape(text))
    return grid


def _layers(report: Report, console: Console) -> Table:
    """The table of layers, without the expendable columns that the terminal has no width for."""
    cells = table(report)
    wanted = list(cells[0])
    spectra: list[Text] = []
    if report.layers and console.encoding.startswith("utf"):
        wanted.insert(wanted.index("shape") + 1, _ESD)
        spectra = [_spectrum(plan) for plan in report.layers]
    unlimited = console.options.update(max_width=PIPE_WIDTH)
    for name in (name for name in _EXPENDABLE if name in wanted):
        grid = _grid(report, cells, wanted, spectra)
        if console.measure(grid, options=unlimited).maximum <= console.width:
            break
        wanted.remove(name)
    return _grid(report, cells, wanted, spectra)


def _grid(
    report: Report,
    cells: tuple[list[str], list[list[str]]],
    wanted: list[str],
    spectra: Sequence[Text],
) -> Table:
    columns, rows = cells
    grid = Table(box=box.SIMPLE_HEAD, pad_edge=False, show_edge=False)
    for column in wanted:
        right = column in NUMERIC
        grid.add_column(
            column,
            justify="right" if right else "left",
            no_wrap=right or column == _ESD,
            overflow="fold",
        )
    dim = [plan.untouched is not None for plan in report.layers] or [False] * len(rows)
    for i, (row, faint) in enumerate(zip(rows, dim, strict=True)):
        cell: dict[str, RenderableType] = {c: escape(t) for c, t in zip(columns, row, strict=True)}
        if spectra:
            cell[_ESD] = spectra[i]
        grid.add_row(*(cell[column] for column in wanted), style="dim" if faint else None)
    return grid


def _spectrum(plan: LayerPlan) -> Text:
    bulk, spikes = sparkline(plan)
    return Text.assemble((bulk, "cyan"), EDGE, (spikes, "yellow"))
