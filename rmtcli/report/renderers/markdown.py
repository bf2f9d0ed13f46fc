"""A report as Markdown."""

from __future__ import annotations

import re
from collections.abc import Sequence

from rmtcli.report.base import Report
from rmtcli.report.difference import Difference
from rmtcli.report.formatting import shown
from rmtcli.report.headline import headline
from rmtcli.report.renderers.base import Context, Renderer
from rmtcli.report.summary import options, summary
from rmtcli.report.table import NUMERIC, table

#: Characters that begin markup; an underscore within a word does not.
_MARKUP = re.compile(r"[\\`*\[\]<>|]|(?<!\w)_|_(?!\w)|&(?=#?\w+;)")


def to_markdown(report: Report, context: Context) -> str:
    """A heading, the summary as a list, and the layers as a table."""
    cells = table(report) if report.layers or report.curve else None
    facts = [*summary(report), ("sha256 of the input", report.source.sha256)]
    title, result = f"{report.action}: {report.source.path}", headline(report)
    if result is not None:
        facts = [("result", f"{result.size} · {result.cost}"), *facts]
    return _page(title, context.command, facts, options(report), cells)


def difference_to_markdown(difference: Difference, context: Context) -> str:
    """A comparison of two checkpoints: a heading, the summary as a list, the layers as a table."""
    title = f"diff: {difference.before.path} and {difference.after.path}"
    edge = [("edge", difference.edge)]
    return _page(title, context.command, difference.summary(), edge, difference.rows())


def _page(
    title: str,
    command: str | None,
    facts: Sequence[tuple[str, str]],
    choices: Sequence[tuple[str, str]],
    cells: tuple[list[str], list[list[str]]] | None,
) -> str:
    lines = [f"# rmtcli {_plain(shown(title))}", ""]
    if command:
        lines += [_code(shown(command)), ""]
    lines += [f"- **{label}:** {_plain(shown(text))}" for label, text in facts]
    lines += [f"- **{label}:** {_code(text)}" for label, text in choices]
    if cells is not None:
        columns, rows = cells
        rule = ["---:" if column in NUMERIC else "---" for column in columns]
        shown_rows = ([shown(cell) for cell in row] for row in rows)
        lines += ["", *(f"| {' | '.join(map(_plain, r))} |" for r in (columns, rule, *shown_rows))]
    return "\n".join(lines) + "\n"


def _plain(text: str) -> str:
    """Text with its markup escaped, so that it is shown as it is."""
    return _MARKUP.sub(lambda sign: f"\\{sign[0]}", text)


def _code(text: str) -> str:
    """Text as code, between more backticks than any run of backticks in it."""
    fence = "`" * (1 + max(map(len, re.findall("`+", text)), default=0))
    pad = " " if "`" in text else ""
    return f"{fence}{pad}{text}{pad}{fence}"


MARKDOWN = Renderer("Markdown", ".md", to_markdown, difference_to_markdown)
