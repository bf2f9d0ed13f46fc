"""Accuracy against size."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

import rmtcli
from rmtcli.errors import UsageError
from rmtcli.pipeline.curve import SIZES
from rmtcli.planning import Budget
from rmtcli.report.table import table
from tests.conftest import DIGITS, Run, tree

DEEP, MNIST = DIGITS / "digits.pt", rmtcli.Evaluation(DIGITS / "digits.npz")


@pytest.mark.parametrize("layout", ["factored", "auto"])
def test_each_point_is_what_prune_gives(layout: str) -> None:
    report = rmtcli.curve(DEEP, sizes=["5%", "20%"], layout=layout, evaluation=MNIST)
    assert [round(p.parameters / report.source.parameters, 2) for p in report.curve] == [0.2, 0.05]
    for point, size in zip(report.curve, ("20%", "5%"), strict=True):
        options = {"layout": layout, "evaluation": MNIST}
        pruned = rmtcli.prune(DEEP, budget=Budget(size), dry_run=True, **options)
        assert pruned.parameters[1] == point.parameters
        assert {p.layer.name: p.rank for p in pruned.pruned if p.ranked} == point.ranks
        shapes = {p.layer.name: p.narrowed for p in pruned.pruned if p.narrowed}
        assert shapes == point.narrowed
        assert bool(shapes) == (layout == "auto")
        assert pruned.comparison is not None
        assert pruned.comparison.drop == point.comparison.drop
        assert point.error is not None
        assert 0 < point.error < 1


def test_the_default_sizes_stop_where_none_can_be_met(tmp_path: Path) -> None:
    report = rmtcli.curve(DEEP, evaluation=MNIST)
    sizes = [p.parameters for p in report.curve]
    assert sizes == sorted(sizes, reverse=True)
    assert 1 < len(sizes) < len(SIZES)
    drops = [p.comparison.drop for p in report.curve]
    assert drops[0] < 0.1  # type: ignore[operator]
    assert drops[-1] > drops[0] + 1  # type: ignore[operator]


def test_the_command_prints_writes_and_draws(tmp_path: Path, rmtcli: Run) -> None:
    arguments = ("curve", DEEP, "--data", MNIST.data, "--size", "10%", "--size", "50%")
    files = ("--report", "r.md", "--plot", "c.svg")
    result = rmtcli(*arguments, *files, cwd=tmp_path)
    assert result.returncode == 0, result.stderr
    assert set(tree(tmp_path)) == {"r.md", "c.svg"}
    assert re.search(r"10\.0 %|9\.9 %", result.stdout)
    assert "# rmtcli curve: " in (tmp_path / "r.md").read_text()
    first = (tmp_path / "c.svg").read_bytes()
    assert b"<svg" in first
    refused = rmtcli(*arguments, *files, cwd=tmp_path)
    assert refused.returncode == 2
    rmtcli(*arguments, *files, "--force", cwd=tmp_path)
    assert (tmp_path / "c.svg").read_bytes() == first
    as_json = rmtcli(*arguments, "--json", cwd=tmp_path)
    points = json.loads(as_json.stdout)["curve"]
    assert [round(p["ratio"], 1) for p in points] == [0.5, 0.1]
    assert all(p["accuracy"]["drop_error"] > 0 for p in points)


def test_networks_in_few_bits_are_measured_by_their_bytes() -> None:
    options = {"bits": "auto", "layout": "pivoted", "evaluation": MNIST}
    report = rmtcli.curve(DEEP, sizes=["2%"], **options)
    pruned = rmtcli.prune(DEEP, budget=Budget("2%", "bytes"), dry_run=True, **options)
    (point,) = report.curve
    assert (point.parameters, point.bytes) == (pruned.parameters[1], pruned.tensor_bytes[1])
    assert pruned.comparison is not None
    assert point.comparison.divergence == pruned.comparison.divergence
    cells = dict(zip(table(report)[0], table(report)[1][0], strict=True))
    assert cells["bytes"] == f"{point.bytes:,}"
    assert cells["left"] == "2.0 %"
    assert report.to_dict()["curve"][0]["bytes_ratio"] == point.bytes / report.tensor_bytes[0]
    (axes,) = report.plot().axes
    assert axes.get_xlabel() == "bytes left, %"
    assert axes.lines[0].get_xdata() == pytest.approx([100 * point.bytes / report.tensor_bytes[0]])


def score(model: object) -> float:
    return 7.0


def test_a_custom_score_has_a_curve_too(tmp_path: Path) -> None:
    from rmtcli.report.plot import draw_curve

    evaluation = rmtcli.Evaluation(score="tests.pipeline.test_curve:score")
    report = rmtcli.curve(DEEP, sizes=["30%"], evaluation=evaluation)
    assert report.curve[0].comparison.after.score == 7
    assert report.curve[0].error is None
    for ending in (".svg", ".png", ".pdf"):
        draw_curve(report, tmp_path / f"c{ending}")
        assert (tmp_path / f"c{ending}").stat().st_size > 1000


def test_missing_matplotlib_is_reported_before_any_work(monkeypatch: pytest.MonkeyPatch) -> None:
    from rmtcli.report import extras, plot

    monkeypatch.setattr(extras, "find_spec", lambda _: None)
    with pytest.raises(UsageError, match=r"pip install matplotlib"):
        plot.check_plots()


def test_sizes_that_cannot_be_met_are_reported() -> None:
    with pytest.raises(UsageError, match=r"a budget of 0\.1% cannot be met"):
        rmtcli.curve(DEEP, sizes=["0.1%"], evaluation=MNIST)
    with pytest.raises(UsageError, match="nothing to evaluate on"):
        rmtcli.curve(DEEP, evaluation=rmtcli.Evaluation())


def test_an_undone_refinement_is_noted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import numpy as np

    monkeypatch.setattr("rmtcli.running.distill.RATE", 30.0)  # ruins the network
    with np.load(DIGITS / "digits.npz") as data:
        np.savez(tmp_path / "two.npz", inputs=data["train_inputs"][:2])
    calibration = rmtcli.Calibration(tmp_path / "two.npz", heal=1)
    report = rmtcli.curve(DEEP, sizes=["20%"], evaluation=MNIST, calibration=calibration)
    assert len(report.notes) == 1
    assert report.notes[0].startswith("20%: Calibration(heal=…) was undone")
