"""Healing of every layout, by passes or by time."""

from __future__ import annotations

import logging
from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from safetensors.torch import load_file, save_file
from torch import nn

import rmtcli
from rmtcli import Calibration, Evaluation
from rmtcli.checkpoint import open_checkpoint
from rmtcli.errors import UsageError
from rmtcli.evaluation.network import build
from rmtcli.planning import Budget
from rmtcli.report.base import Report
from rmtcli.report.summary import summary
from rmtcli.running.batches import step_size
from rmtcli.running.calibrate import CalibrationInputs
from rmtcli.running.descent import Extent
from rmtcli.running.held_out import HeldOut
from rmtcli.running.norms import estimation_helps, norms_of
from tests.evaluation import factories

FACTORY = "tests.evaluation.factories:normed"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A network with BatchNorms that was trained, and its data."""
    folder = tmp_path_factory.mktemp("healing")
    torch.manual_seed(0)
    rng = np.random.default_rng(0)
    x = (rng.normal(size=(1200, 8)) @ rng.normal(size=(8, 20))).astype(np.float32)
    model, inputs = factories.normed(), torch.from_numpy(x)
    y = (inputs[:, 0] > 0).long() + 2 * (inputs[:, 7] > 0).long()
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-2)
    for _ in range(60):
        optimizer.zero_grad()
        nn.functional.cross_entropy(model.train()(inputs[:900]), y[:900]).backward()
        optimizer.step()
    save_file(model.state_dict(), folder / "net.safetensors")
    arrays = {"train_inputs": x[:900], "inputs": x[900:], "targets": y[900:].numpy()}
    np.savez(folder / "d.npz", **arrays)
    return folder


def pruned(folder: Path, target: Path, **options: object) -> Report:
    """The trained network at 40 % of its parameters, calibrated with some options."""
    layout = str(options.pop("layout", "factored"))
    return rmtcli.prune(
        folder / "net.safetensors",
        target,
        budget=Budget("40%"),
        layout=layout,
        evaluation=Evaluation(folder / "d.npz", model=FACTORY),
        calibration=Calibration(folder / "d.npz", **options),  # type: ignore[arg-type]
    )


@pytest.mark.parametrize("layout", ["factored", "pivoted", "dense", "narrow"])
def test_every_layout_is_healed(folder: Path, tmp_path: Path, layout: str) -> None:
    report = pruned(folder, tmp_path / "a.safetensors", layout=layout, heal=40)
    plain = pruned(folder, tmp_path / "b.safetensors", layout=layout)
    assert report.comparison is not None
    assert plain.comparison is not None
    assert report.calibrated is not None
    assert report.calibrated.undone == ()
    assert report.comparison.divergence < plain.comparison.divergence  # type: ignore[operator]
    assert report.comparison.unhealed is not None
    before, after = (load_file(tmp_path / f"{name}.safetensors") for name in "ba")
    assert {n: t.shape for n, t in before.items()} == {n: t.shape for n, t in after.items()}
    # The written network is the one that was measured.
    again = rmtcli.evaluate(
        tmp_path / "a.safetensors", evaluation=Evaluation(folder / "d.npz", model=FACTORY)
    )
    assert again.comparison is not None
    np.testing.assert_array_equal(again.comparison.after.outputs, report.comparison.after.outputs)
    if layout == "dense":  # ranks stay as they are
        for plan in report.pruned:
            assert np.linalg.matrix_rank(after[plan.layer.name].numpy(), tol=1e-4) <= plan.rank


def test_healing_ends_with_its_time(
    folder: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG, "rmtcli")
    report = pruned(folder, tmp_path / "a.safetensors", heal_minutes=0.005)
    assert dict(summary(report))["calibrated"].endswith("; healed in 0.005 minutes")
    assert report.to_dict()["calibration"]["heal_minutes"] == 0.005
    told = [r.label for r in caplog.records if getattr(r, "label", "").startswith("healing")]
    assert told[0] == "healing"
    assert all(": loss " in label and label.endswith(" left") for label in told[1:])
    assert told[-1].endswith("0:00 left")


def test_the_first_of_two_limits_ends_healing() -> None:
    both = Extent(passes=4, minutes=2)
    assert both.share(passes=1, seconds=0) == 0.25
    assert both.share(passes=1, seconds=90) == 0.75
    assert both.share(passes=5, seconds=0) == 1
    assert Extent(passes=4, minutes=0).share(passes=1, seconds=1e9) == 0.25
    assert Extent(passes=0, minutes=2).share(passes=9, seconds=60) == 0.5


@pytest.mark.parametrize("factor", [1.0, 3.0])
def test_statistics_of_a_batch_norm_are_estimated_if_that_helps(
    folder: Path, factor: float
) -> None:
    """A weight times a factor needs other statistics; the dense network's own are the best."""
    harness = Evaluation(folder / "d.npz", model=FACTORY).resolve(
        open_checkpoint(folder / "net.safetensors")
    )
    source = CalibrationInputs.read(Calibration(folder / "d.npz"), harness)
    dense, model = build(harness), build(harness)
    with torch.no_grad():
        for tensor in (model[0].weight, model[0].bias):
            tensor *= factor
    held_out, norms = HeldOut(source, dense), norms_of(model)
    before, old = held_out.distance(model), {n: t.clone() for n, t in model[1].named_buffers()}
    assert estimation_helps(model, norms, source, held_out) == (factor != 1)
    if factor == 1:
        assert all(torch.equal(old[name], t) for name, t in model[1].named_buffers())
    else:
        assert held_out.distance(model) < 0.2 * before
    assert torch.equal(old["num_batches_tracked"], model[1].num_batches_tracked)
    assert not model[1].training


def test_a_negative_time_is_refused() -> None:
    with pytest.raises(UsageError, match="at least 0 minutes"):
        Calibration(heal_minutes=-1)
    with pytest.raises(UsageError, match="give inputs with calibration="):
        rmtcli.prune("sample_models/mnist_deep.pt", calibration=Calibration(heal_minutes=1))


def test_a_step_has_about_as_many_tokens_whatever_the_lengths_of_texts() -> None:
    """Padding does not count; other inputs have half of a forward pass's samples per step."""

    def texts(length: int) -> NDArray[np.int64]:
        return np.stack([np.pad(np.ones((3, length), np.int64), ((0, 0), (0, 300 - length)))] * 40)

    assert [step_size(texts(length), 32) for length in (8, 16, 256, 300)] == [128, 64, 4, 3]
    assert [step_size(np.zeros((40, 5)), batch) for batch in (1024, 32, 1)] == [128, 16, 1]
