"""A report on a terminal, or as plain text in a pipe."""

from __future__ import annotations

from rich import box
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from rmtcli.report.base import Report
from rmtcli.report.rows import NUMERIC, summary, table

#: Width of text that goes to a file or another program, where nothing should be cut or wrapped.
_PIPE_WIDTH = 1_000_000
#: Columns that a narrow terminal does without, the first first. JSON and Markdown have them all.
_EXPENDABLE: tuple[str, ...] = ("break-even", "tail α", "s₁", "γ", "stable rank", "p", "fit")
_EXPENDABLE += ("edge s₊", "shape", "spikes", "σ", "parameters")


def stdout() -> Console:
    """A console for results: as wide as the terminal, or unwrapped in a pipe."""
    console = Console(highlight=False, emoji=False)
    if console.is_terminal:
        return console
    return Console(highlight=False, emoji=False, width=_PIPE_WIDTH)


def show(report: Report, console: Console) -> None:
    """Print the table of layers and the summary under it."""
    if not console.is_terminal:
        with console.capture() as capture:
            _print(report, console)
        lines = (line.rstrip() for line in capture.get().splitlines())
        console.file.write("\n".join(lines) + "\n")
    else:
        _print(report, console)


def _print(report: Report, console: Console) -> None:
    if report.layers or report.curve:
        console.print(_layers(report, console))
        console.print()
    lines = Table.grid(padding=(0, 2))
    lines.add_column(no_wrap=True, style="bold")
    lines.add_column()
    for label, text in summary(report):
        lines.add_row(label, escape(text))
    console.print(lines)


def _layers(report: Report, console: Console) -> Table:
    """The table of layers, without as many expendable columns as the width demands."""
    cells = table(report)
    wanted = list(cells[0])
    unlimited = console.options.update(max_width=_PIPE_WIDTH)
    for name in (name for name in _EXPENDABLE if name in wanted):
        grid = _grid(report, cells, wanted)
        if console.measure(grid, options=unlimited).maximum <= console.width:
            break
        wanted.remove(name)
    return _grid(report, cells, wanted)


def _grid(report: Report, cells: tuple[list[str], list[list[str]]], wanted: list[str]) -> Table:
    columns, rows = cells
    grid = Table(box=box.SIMPLE_HEAD, pad_edge=False, show_edge=False)
    for column in wanted:
        right = column in NUMERIC
        grid.add_column(
            column, justify="right" if right else "left", no_wrap=right, overflow="fold"
        )
    places = [columns.index(column) for column in wanted]
    dim = [plan.untouched is not None for plan in report.layers] or [False] * len(rows)
    for row, faint in zip(rows, dim, strict=True):
        style = "dim" if faint else None
        grid.add_row(*(escape(row[place]) for place in places), style=style)
    return grid
