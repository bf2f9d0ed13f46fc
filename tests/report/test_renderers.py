"""The table of report formats, and the interface that they share."""

from __future__ import annotations

from pathlib import Path

import pytest

import rmtcli
from rmtcli.report.base import Report
from rmtcli.report.conditions import Outcome
from rmtcli.report.renderers import RENDERERS, Context
from tests.conftest import ROOT, SAMPLES, Run

pytest.importorskip("junitparser")
CONTEXT = Context(
    "rmtcli analyze planted", (Outcome("layers.count > 9", None), Outcome("params.ratio < 2", "so"))
)


@pytest.fixture(scope="module")
def report() -> Report:
    return rmtcli.analyze(SAMPLES / "planted.safetensors")


@pytest.mark.parametrize("ending", RENDERERS)
def test_every_format_names_every_layer(report: Report, ending: str) -> None:
    renderer = RENDERERS[ending]
    renderer.check()
    text = renderer.render(report, CONTEXT)
    assert all(plan.layer.name.split(".")[0] in text for plan in report.layers)
    assert text == renderer.render(report, CONTEXT)


@pytest.mark.parametrize("ending", RENDERERS)
def test_every_format_shows_the_command_or_the_conditions(report: Report, ending: str) -> None:
    text = RENDERERS[ending].render(report, CONTEXT)
    shows_command = "rmtcli analyze planted" in text
    shows_conditions = "params.ratio &lt; 2" in text and 'message="so"' in text
    assert shows_command or shows_conditions


def test_the_report_option_accepts_the_endings_of_the_table(workdir: Path, rmtcli: Run) -> None:
    refused = rmtcli("analyze", "sample_models/planted.safetensors", "--report", "a.txt")
    assert refused.returncode == 2
    assert f"its name must end in {' or '.join(RENDERERS)}" in refused.stderr
    for ending in RENDERERS:
        path = f"a{ending}"
        done = rmtcli("analyze", "sample_models/planted.safetensors", "--report", path)
        assert done.returncode == 0, done.stderr
        assert Path(path).read_text()


def test_every_ending_is_documented() -> None:
    page = (ROOT / "docs/reports.md").read_text()
    assert all(f"`report{ending}`" in page for ending in RENDERERS)
