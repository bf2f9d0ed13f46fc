"""Hostile layer names in Markdown and on a terminal."""

from __future__ import annotations

import io
import re
from pathlib import Path

import pytest
from rich.console import Console

import rmtcli
from rmtcli.report.renderers import Context
from rmtcli.report.renderers.markdown import difference_to_markdown, to_markdown
from rmtcli.report.terminal import show, show_difference
from tests.report.hostile import NAMES, hostile_report


@pytest.mark.parametrize("kind", NAMES)
def test_markdown_keeps_its_rows_and_escapes_markup_in_names(kind: str, tmp_path: Path) -> None:
    report = hostile_report(NAMES[kind], tmp_path)
    text = to_markdown(report, Context(f"rmtcli analyze {NAMES[kind]}"))
    rows = [line for line in text.splitlines() if line.startswith("|")]
    assert len(rows) == 2 + len(report.layers)
    assert len({len(re.findall(r"(?<!\\)(?:\\\\)*\|", row)) for row in rows}) == 1
    assert all(c.isprintable() or c == "\n" for c in text)
    plain = re.sub(r"\\.", "", "\n".join(rows))  # without what is escaped
    assert not re.search(r"[<`*\[\]]|&\w+;", plain)


@pytest.mark.parametrize("kind", NAMES)
def test_a_terminal_gets_no_control_characters_from_names(kind: str, tmp_path: Path) -> None:
    report = hostile_report(NAMES[kind], tmp_path)
    stream = io.StringIO()
    show(report, Console(file=stream, width=100, force_terminal=True, color_system=None))
    text = re.sub(r"\x1b\[[0-9;]*m", "", stream.getvalue())  # rich's own bold and dim
    assert all(c.isprintable() or c == "\n" for c in text)


def test_code_with_backticks_stays_code(tmp_path: Path) -> None:
    report = hostile_report("a.weight", tmp_path)
    assert "``` rmtcli a``b ```" in to_markdown(report, Context("rmtcli a``b"))


@pytest.mark.parametrize("kind", NAMES)
def test_hostile_names_do_no_harm_in_a_comparison_of_two_checkpoints(
    kind: str, tmp_path: Path
) -> None:
    hostile_report(NAMES[kind], tmp_path)
    found = rmtcli.diff(tmp_path / "a.pt", tmp_path / "a.pt")
    stream = io.StringIO()
    show_difference(found, Console(file=stream, width=200, force_terminal=True, color_system=None))
    for text in (
        re.sub(r"\x1b\[[0-9;]*m", "", stream.getvalue()),
        difference_to_markdown(found, Context()),
    ):
        assert all(c.isprintable() or c == "\n" for c in text)
    rows = [line for line in text.splitlines() if line.startswith("|")]
    assert len({len(re.findall(r"(?<!\\)(?:\\\\)*\|", row)) for row in rows}) == 1
