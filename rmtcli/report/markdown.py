"""A report as Markdown."""

from __future__ import annotations

from rmtcli.report.base import Report
from rmtcli.report.rows import NUMERIC, shown, summary, table


def to_markdown(report: Report, command: str | None = None) -> str:
    """A heading, the summary as a list, and the layers as a table.

    Args:
        report: the report.
        command: the command line that made it, or None from Python.
    """
    lines = [f"# rmtcli {report.action}: {_text(report.source.path)}", ""]
    if command:
        lines += [f"`{command}`", ""]
    lines += [f"- **{label}:** {_text(text)}" for label, text in summary(report)]
    lines.append(f"- **sha256 of the input:** {report.source.sha256}")
    if report.edge:
        lines.append(f"- **edge:** `{report.edge}`, **keep:** `{report.keep}`")
    if report.layers or report.curve:
        columns, rows = table(report)
        rule = ["---:" if column in NUMERIC else "---" for column in columns]
        lines += ["", *(f"| {' | '.join(map(_cell, row))} |" for row in (columns, rule, *rows))]
    return "\n".join(lines) + "\n"


def _cell(text: str) -> str:
    return _text(text).replace("|", "\\|")


def _text(text: str) -> str:
    """One line in which no name can open a tag or end a table's row."""
    return shown(text).replace("&", "&amp;").replace("<", "&lt;")
