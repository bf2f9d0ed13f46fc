"""A report in a notebook."""

from __future__ import annotations

from html import escape

from rmtcli.report.base import Report
from rmtcli.report.formatting import shown
from rmtcli.report.summary import summary
from rmtcli.report.table import table


def to_fragment(report: Report) -> str:
    """The table and the summary as an HTML fragment without any style."""
    columns, rows = table(report) if report.layers or report.curve else ([], [])
    parts = [
        f"<tr>{''.join(f'<{tag}>{_text(cell)}</{tag}>' for cell in row)}</tr>"
        for row, tag in [(columns, "th"), *((row, "td") for row in rows)]
    ]
    lines = (f"<tr><th>{_text(a)}</th><td>{_text(b)}</td></tr>" for a, b in summary(report))
    grid = f"<table>{''.join(parts)}</table>" if rows else ""
    return f"{grid}<table>{''.join(lines)}</table>"


def _text(text: str) -> str:
    return escape(shown(text))
