"""The figure of a training run."""

from __future__ import annotations

from pathlib import Path

import pytest

from rmtcli.training import write_log
from tests.conftest import Run
from tests.training.test_log import logged

pytest.importorskip("matplotlib")


@pytest.mark.parametrize("ending", [".csv", ".json"])
def test_the_figure_shows_layers_and_metrics(tmp_path: Path, rmtcli: Run, ending: str) -> None:
    log = tmp_path / f"run{ending}"
    write_log(logged(), log)
    done = rmtcli("plot-training", log)
    assert done.returncode == 0, done.stderr
    figure = (tmp_path / "run.svg").read_bytes()
    text = figure.decode()
    for word in ("fc1", "fc2", "rank", "parameters", "loss", "calls of the pruner"):
        assert f"<!-- {word} -->" in text
    assert done.stdout.strip() == str(tmp_path / "run.svg")
    again = rmtcli("plot-training", log, "--force")
    assert again.returncode == 0
    assert (tmp_path / "run.svg").read_bytes() == figure


def test_wrong_arguments_are_refused(tmp_path: Path, rmtcli: Run) -> None:
    log = tmp_path / "run.csv"
    gone = rmtcli("plot-training", log)
    assert gone.returncode == 2
    assert gone.stderr == f"rmtcli: error: {log}: no such file\n"
    write_log(logged(), log)
    ending = rmtcli("plot-training", log, "-o", tmp_path / "run.gif")
    assert ending.returncode == 2
    assert "must end in .svg or .png or .pdf" in ending.stderr
    (tmp_path / "run.svg").write_text("mine")
    kept = rmtcli("plot-training", log)
    assert kept.returncode == 2
    assert (tmp_path / "run.svg").read_text() == "mine"
