"""An adapter that brings a compressed network nearer to the dense one."""

from __future__ import annotations

import json
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import nn

import rmtcli as package
from rmtcli.adapters import read_adapter
from rmtcli.errors import LayerError, UsageError
from rmtcli.keep import Untouched
from tests.conftest import Run
from tests.report.test_schema import CHECK

SIZES = (48, 64, 56, 40)


def network() -> nn.Sequential:
    """A chain of three linear layers, whose head is one of them by name."""
    torch.manual_seed(0)
    pairs = pairwise(SIZES)
    modules = [module for a, b in pairs for module in (nn.Linear(a, b), nn.ReLU())]
    return nn.Sequential(*modules[:-1]).eval()


def inputs(rows: int = 400) -> np.ndarray:
    """Inputs with a mean, and with little in many directions."""
    rng = np.random.default_rng(1)
    return (0.5 + rng.standard_normal((rows, 48)) * np.linspace(2, 0.02, 48)).astype("f4")


def rounded(state: dict[str, Any]) -> dict[str, Any]:
    """Weights as a few levels per row would hold them, and biases that are off."""
    new = {}
    for name, tensor in state.items():
        step = tensor.abs().amax(-1, keepdim=True) / 2
        new[name] = (tensor / step).round() * step if tensor.ndim == 2 else tensor + 0.1
    return new


def outputs(model: nn.Sequential, state: dict[str, Any]) -> torch.Tensor:
    copy = network()
    copy.load_state_dict(state)
    with torch.no_grad():
        return copy(torch.from_numpy(inputs()))


@pytest.mark.parametrize("style", ["peft", "kohya"])
def test_what_a_layer_lost_in_few_directions_is_brought_back(tmp_path: Path, style: str) -> None:
    dense, rng = {}, np.random.default_rng(0)
    small = {}
    for name, rank in (("a", 3), ("b", 0), ("c", None)):
        weight = rng.standard_normal((80, 70))
        error = 1e-3 * rng.standard_normal((80, 70))
        if rank:
            left, right = (np.linalg.qr(rng.standard_normal((m, rank)))[0] for m in (80, 70))
            error += 0.05 * left @ right.T
        dense[f"{name}.weight"] = torch.from_numpy(weight).float()
        small[f"{name}.weight"] = torch.from_numpy(weight + error * (rank is not None)).float()
        dense[f"{name}.bias"] = torch.zeros(80)
        small[f"{name}.bias"] = torch.ones(80)
    output = tmp_path / ("out.safetensors" if style == "kohya" else "out")
    report = package.repair(dense, small, output, style=style)
    assert [plan.rank for plan in report.layers] == [3, 0]
    assert report.layers[1].untouched is Untouched.NO_SPIKES
    text = str(report)
    assert "nothing to repair: no eigenvalue is above the edge" in text
    assert "no loss        1 layer\n" in text
    assert "other tensors that differ: a.bias, b.bias, c.bias" in text
    adapter = read_adapter(output)
    assert not adapter.saved
    (layer,) = adapter.layers
    left, right = layer.factors()
    names = dense["a.weight"].double().numpy(), small["a.weight"].double().numpy()
    after = np.linalg.norm(names[0] - names[1] - layer.scale * left @ right) / np.linalg.norm(
        names[0]
    )
    assert report.layers[0].predicted_loss == pytest.approx(after**2, rel=1e-3)


def test_the_loss_is_that_of_the_outputs_and_a_bias_takes_the_mean(tmp_path: Path) -> None:
    model = network()
    dense = model.state_dict()
    paths = [tmp_path / f"{name}.safetensors" for name in ("dense", "small")]
    small = rounded(dense)
    save_file(dense, paths[0])
    save_file(small, paths[1])
    calibration = package.Calibration((inputs(),), metric="one-sided", clean="none")
    options: dict[str, Any] = {"keep": "rank:k=6", "calibration": calibration}
    report = package.repair(*paths, tmp_path / "out", **options)
    assert [plan.rank for plan in report.layers] == [6, 6, 6]
    adapter = read_adapter(tmp_path / "out")
    assert set(adapter.saved) == {"0.bias", "2.bias", "4.bias"}
    merged = package.merge(paths[1], tmp_path / "out", tmp_path / "merged.safetensors")
    assert merged.output is not None
    fixed = load_file(tmp_path / "merged.safetensors")
    reference = outputs(model, dense)
    before, after = (float((outputs(model, x) - reference).square().mean()) for x in (small, fixed))
    assert after < 0.2 * before
    # The first layer's outputs on the calibration inputs, beside what the report predicts.
    x = torch.from_numpy(inputs()).double()
    error = (fixed["0.weight"] - dense["0.weight"]).double() @ x.T
    error = error + (fixed["0.bias"] - dense["0.bias"]).double()[:, None]
    whole = dense["0.weight"].double() @ (x - x.mean(0)).T
    torch.testing.assert_close(error.mean(1), torch.zeros(64).double(), rtol=0, atol=1e-5)
    loss = report.layers[0].predicted_loss
    assert float(error.square().sum() / whole.square().sum()) == pytest.approx(loss, rel=1e-2)
    # In kohya's style no bias can take the mean.
    kohya = package.repair(*paths, tmp_path / "k.safetensors", style="kohya", **options)
    assert not read_adapter(tmp_path / "k.safetensors").saved
    assert kohya.layers[0].predicted_loss != loss


def test_a_pruned_file_is_repaired_with_the_statistics_that_prune_left(
    tmp_path: Path, rmtcli: Run
) -> None:
    dense, data, stats = (tmp_path / name for name in ("d.safetensors", "x.npz", "m.safetensors"))
    save_file(network().state_dict(), dense)
    np.savez(data, inputs=inputs())
    common = {"calibration": package.Calibration(data, stats=stats)}
    small = tmp_path / "small.safetensors"
    package.prune(dense, small, keep="rank:k=12", bits=4, **common)
    done = rmtcli("repair", dense, small, "--stats", stats, "--keep", "rank:k=4", "--json")
    assert done.returncode == 0, done.stderr
    record = json.loads(done.stdout)
    CHECK.validate(record)
    assert [layer["rank"] for layer in record["layers"]] == [4, 4, 0]
    assert record["layers"][2]["reason"] == "no_statistics"
    loss = record["adapter"]["loss"]
    assert 0 < loss["after"] < 0.8 * loss["before"] < loss["before"]
    assert set(loss["layers"]) == {"0.weight", "2.weight", "4.weight"}
    assert any("write that with rmtcli densify" in note for note in record["notes"])
    wide = tmp_path / "wide.safetensors"
    package.densify(small, wide)
    merged = tmp_path / "merged.safetensors"
    package.merge(wide, tmp_path / "small.repair", merged)
    model = network()
    reference = outputs(model, load_file(dense))
    errors = [
        float((outputs(model, load_file(path)) - reference).square().mean())
        for path in (wide, merged)
    ]
    assert errors[1] < 0.8 * errors[0]


def test_reports_of_a_repair_in_all_formats(tmp_path: Path) -> None:
    dense = network().state_dict()
    report = package.repair(dense, rounded(dense), dry_run=True, keep="rank:k=2")
    for ending in ("html", "md", "json"):
        report.save(tmp_path / f"report.{ending}")
        assert "repair" in (tmp_path / f"report.{ending}").read_text()
    assert "of the loss repaired" in repr(report)


def test_a_narrower_network_cannot_be_repaired(tmp_path: Path) -> None:
    dense, small = tmp_path / "d.safetensors", tmp_path / "s.safetensors"
    save_file(network().state_dict(), dense)
    given = {"layout": "narrow", "budget": "60%"}
    calibration = package.Calibration((inputs(),))
    report = package.prune(dense, small, calibration=calibration, **given)
    assert any(plan.narrowed for plan in report.layers)
    with pytest.raises(LayerError, match="an adapter adds no units"):
        package.repair(dense, small)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"style": "lora"}, "style= is peft or kohya, not 'lora'"),
        ({"max_rank": 0}, "max_rank= must be at least 1, not 0"),
        ({"calibration": package.Calibration(heal=1)}, "refine no adapter"),
    ],
)
def test_wrong_options_are_refused(options: dict[str, Any], message: str) -> None:
    dense = network().state_dict()
    with pytest.raises(UsageError, match=message):
        package.repair(dense, rounded(dense), dry_run=True, **options)


def test_nothing_to_repair_is_said(tmp_path: Path, rmtcli: Run) -> None:
    path = tmp_path / "d.safetensors"
    save_file(network().state_dict(), path)
    done = rmtcli("repair", path, path, "-o", tmp_path / "out")
    assert done.returncode == 1
    assert "no layer's loss is above the edge: no adapter written" in done.stderr
    assert not (tmp_path / "out").exists()
