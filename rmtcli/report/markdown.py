"""A report as Markdown."""

from __future__ import annotations

import re

from rmtcli.report.base import Report
from rmtcli.report.rows import NUMERIC, shown, summary, table

#: Signs that begin markup; an underscore within a word does not.
_MARKUP = re.compile(r"[\\`*\[\]<>|]|(?<!\w)_|_(?!\w)|&(?=#?\w+;)")


def to_markdown(report: Report, command: str | None = None) -> str:
    """A heading, the summary as a list, and the layers as a table.

    Args:
        report: the report.
        command: the command line that made it, or None from Python.
    """
    lines = [f"# rmtcli {report.action}: {_plain(shown(report.source.path))}", ""]
    if command:
        lines += [_code(shown(command)), ""]
    lines += [f"- **{label}:** {_plain(text)}" for label, text in summary(report)]
    lines.append(f"- **sha256 of the input:** {report.source.sha256}")
    if report.edge:
        lines.append(f"- **edge:** `{report.edge}`, **keep:** `{report.keep}`")
    if report.layers or report.curve:
        columns, rows = table(report)
        rule = ["---:" if column in NUMERIC else "---" for column in columns]
        lines += ["", *(f"| {' | '.join(map(_plain, row))} |" for row in (columns, rule, *rows))]
    return "\n".join(lines) + "\n"


def _plain(text: str) -> str:
    """Text that is shown as it is, whatever it holds."""
    return _MARKUP.sub(lambda sign: f"\\{sign[0]}", text)


def _code(text: str) -> str:
    """Text as code, between more backticks than it holds in a row."""
    fence = "`" * (1 + max(map(len, re.findall("`+", text)), default=0))
    pad = " " if "`" in text else ""
    return f"{fence}{pad}{text}{pad}{fence}"
