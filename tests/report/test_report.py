from __future__ import annotations

import io
import json
from pathlib import Path

import pytest
from rich.console import Console

import rmtcli
from rmtcli.report.base import Report
from rmtcli.report.renderers import Context
from rmtcli.report.renderers.markdown import to_markdown
from rmtcli.report.terminal import show
from tests.conftest import SAMPLES

GOLDEN = Path(__file__).parents[1] / "golden"


@pytest.fixture(scope="module")
def report() -> Report:
    return rmtcli.prune(SAMPLES / "mnist_deep.pt", dry_run=True)


def close(found: object, golden: object, where: str = "") -> None:
    """Equal, but for the rounding of another processor's linear algebra."""
    if isinstance(golden, float):
        assert found == pytest.approx(golden, rel=1e-6, abs=1e-9), where
    elif isinstance(golden, dict):
        assert isinstance(found, dict)
        assert list(found) == list(golden), where
        for key, value in golden.items():
            close(found[key], value, f"{where}.{key}")
    elif isinstance(golden, list):
        assert isinstance(found, list)
        assert len(found) == len(golden), where
        for i, value in enumerate(golden):
            close(found[i], value, f"{where}[{i}]")
    else:
        assert found == golden, where


@pytest.mark.parametrize("name", ["mnist_mlp.safetensors", "mnist_deep.pt", "planted.safetensors"])
def test_reports_of_the_sample_models_equal_the_golden_files(name: str) -> None:
    """Made by: rmtcli analyze sample_models/NAME --json > tests/golden/NAME.json."""
    golden = json.loads((GOLDEN / f"{name}.json").read_text())
    found = json.loads(rmtcli.analyze(SAMPLES / name).to_json())
    for volatile in ("command", "rmtcli_version"):
        golden.pop(volatile)
        found.pop(volatile)
    golden["source"]["path"] = found["source"]["path"]
    close(found, golden)


def test_markdown_has_one_row_per_layer_and_no_broken_cells(report: Report) -> None:
    lines = to_markdown(report, Context()).splitlines()
    rows = [line for line in lines if line.startswith("|")]
    assert len(rows) == 2 + len(report.layers)
    assert len({row.count("|") for row in rows}) == 1


@pytest.mark.parametrize("width", [40, 80, 200])
def test_a_terminal_of_any_width_shows_every_layer(report: Report, width: int) -> None:
    stream = io.StringIO()
    show(report, Console(file=stream, width=width, force_terminal=True, color_system=None))
    text = stream.getvalue()
    assert all(len(line) <= width for line in text.splitlines())
    flat = "".join(text.split())
    assert "1,061,130→62,138" in flat
    assert flat.count("leftalone:outputhead") == 1 or width == 40


def test_names_with_markup_are_shown_as_they_are(tmp_path: Path) -> None:
    import torch

    name = "[bold]x[/bold].weight"
    torch.save({name: torch.randn(64, 64), "z.weight": torch.randn(64, 64)}, tmp_path / "a.pt")
    report = rmtcli.analyze(tmp_path / "a.pt")
    stream = io.StringIO()
    show(report, Console(file=stream, width=200))
    assert name in stream.getvalue()
