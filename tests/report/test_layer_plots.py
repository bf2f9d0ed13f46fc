"""Histograms of spectra, and their figures in files."""

from __future__ import annotations

import csv
from pathlib import Path

import numpy as np
import pytest
import torch

import rmtcli
from rmtcli.report.base import Report
from rmtcli.report.esd import MAX_BARS, esd_of
from rmtcli.report.layer_plots import file_stem, write_plots
from tests.conftest import SAMPLES, Run, planted, tree
from tests.report.hostile import NAMES, hostile_report

pytest.importorskip("matplotlib")
MLP = "sample_models/mnist_mlp.safetensors"


@pytest.fixture(scope="module")
def report() -> Report:
    return rmtcli.prune(SAMPLES / "mnist_deep.pt", dry_run=True)


def test_bars_count_every_eigenvalue_once_and_the_rank(report: Report) -> None:
    for plan in report.layers:
        esd = esd_of(plan)
        assert len(esd.bins) <= MAX_BARS + 1
        assert (np.diff(esd.bins) > 0).all()
        assert esd.kept.sum() == plan.rank
        assert esd.dropped.sum() == plan.spectrum.p - plan.rank


@pytest.mark.parametrize(("times", "logarithmic"), [(1.5, False), (20.0, True)])
def test_the_law_is_fitted_to_the_bulk(tmp_path: Path, times: float, logarithmic: bool) -> None:
    weight = planted((600, 300), 5, times=times).astype(np.float32)
    torch.save({"a.weight": torch.from_numpy(weight)}, tmp_path / "a.pt")
    (plan,) = rmtcli.analyze(tmp_path / "a.pt").layers
    esd = esd_of(plan)
    assert esd.logarithmic is logarithmic
    assert plan.spikes == 5
    assert esd.law is not None
    assert esd.law.sum() == pytest.approx(295, abs=1e-6)
    counts = esd.dropped + esd.kept
    below = esd.bins[1:] < plan.fit.law.lambda_plus
    # Eigenvalues repel: bars stray from the law by far less than independent counts would.
    assert np.abs(counts - esd.law)[below].max() < 6


@pytest.mark.parametrize(
    "weight",
    [np.eye(64), np.ones((64, 64)), planted((64, 40), 1, times=1e6), np.eye(64)[:, :2] + 1e-9],
    ids=["all equal", "rank one", "far spike", "two columns"],
)
def test_odd_layers_can_be_drawn(tmp_path: Path, weight: np.ndarray) -> None:
    torch.save({"a.weight": torch.from_numpy(weight)}, tmp_path / "a.pt")
    report = rmtcli.analyze(tmp_path / "a.pt")
    write_plots(report, tmp_path / "figures")
    assert (tmp_path / "figures/001-a.weight.svg").is_file()


def test_each_layer_has_files_and_writing_them_again_gives_equal_bytes(
    report: Report, tmp_path: Path
) -> None:
    for folder in ("a", "b"):
        write_plots(report, tmp_path / folder)
    files = tree(tmp_path / "a")
    assert files == tree(tmp_path / "b")
    assert len(files) == 4 * len(report.layers) + 1
    with (tmp_path / "a/layers.csv").open() as text:
        index = list(csv.DictReader(text))
    assert [row["layer"] for row in index] == [plan.layer.name for plan in report.layers]
    with (tmp_path / "a" / f"{index[0]['file']}.csv").open() as text:
        bars = list(csv.DictReader(text))
    first = report.layers[0]
    assert sum(int(bar["dropped"]) + int(bar["kept"]) for bar in bars) == first.spectrum.p
    assert {float(bar["edge"]) for bar in bars} == {first.fit.edge}


@pytest.mark.parametrize("kind", NAMES)
def test_file_names_are_harmless(kind: str, tmp_path: Path) -> None:
    write_plots(hostile_report(NAMES[kind], tmp_path), tmp_path / "figures")
    assert {p.name for p in tmp_path.iterdir()} == {"a.pt", "figures"}
    names = [p.name for p in (tmp_path / "figures").iterdir()]
    assert len(names) == 9
    assert all(len(name) < 100 and set(name) <= set(SAFE) for name in names)
    assert file_stem(1, "a/b") != file_stem(2, "a:b")


SAFE = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789._-"


def test_directories_are_checked_before_any_work(workdir: Path, rmtcli: Run) -> None:
    (workdir / "full").mkdir()
    (workdir / "full/mine.txt").write_text("mine")
    (workdir / "m").mkdir()
    before = tree(workdir)
    for folder, words in {
        "full": "full: is not empty: give --force to write into it",
        MLP: f"{MLP}: is a file: give a directory for the figures",
    }.items():
        done = rmtcli("analyze", MLP, "--plot", folder)
        assert (done.returncode, done.stderr) == (2, f"rmtcli: error: {words}\n")
    done = rmtcli("analyze", MLP, "--plot", "new", "--report", "new")
    assert done.returncode == 2
    assert tree(workdir) == before
    done = rmtcli("prune", MLP, "--dry-run", "--plot", "full", "--force")
    assert done.returncode == 0, done.stderr
    assert (workdir / "full/mine.txt").read_text() == "mine"
    assert (workdir / "full/001-fc1.weight.pdf").is_file()
