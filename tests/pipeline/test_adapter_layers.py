"""Adapters in analyze and diff: their changes, by QR decompositions of their factors."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

import rmtcli as package
from rmtcli.adapters import read_adapter
from rmtcli.errors import UsageError
from tests.adapters.made import kohya_file, kohya_tensors, lora, pair, peft_directory
from tests.conftest import Run
from tests.report.test_schema import CHECK

CONFIG = {"peft_type": "LORA", "r": 40, "lora_alpha": 80, "target_modules": ["q", "v"]}


def noisy(folder: Path, seed: int = 0) -> Path:
    """An adapter of rank 40: noise with three directions in the first layer, and noise alone."""
    generator = torch.Generator().manual_seed(seed)
    tensors = {}
    for name, spikes in (("q", 3), ("v", 0)):
        left = 1e-3 * torch.randn((300, 40), generator=generator)
        right = torch.linalg.qr(torch.randn((100, 40), generator=generator))[0].T
        left[:, :spikes] += 0.1 * torch.linalg.qr(torch.randn(300, spikes, generator=generator))[0]
        tensors |= lora(name, left, right)
    return peft_directory(folder, tensors, CONFIG)


def products(path: Path) -> dict[str, np.ndarray]:
    return {
        item.module: item.scale * np.matmul(*item.factors()) for item in read_adapter(path).layers
    }


def test_an_adapter_is_analysed_on_the_inputs_that_it_reads(tmp_path: Path, rmtcli: Run) -> None:
    adapter = noisy(tmp_path / "a")
    done = rmtcli("analyze", adapter, "--json")
    assert done.returncode == 0, done.stderr
    record = json.loads(done.stdout)
    CHECK.validate(record)
    assert [(x["name"], x["shape"], x["spikes"]) for x in record["layers"]] == [
        ("q", [300, 40], 3),
        ("v", [300, 40], 0),
    ]
    for layer in record["layers"]:
        whole = np.linalg.svd(products(adapter)[layer["name"]], compute_uv=False)
        assert layer["largest_singular_value"] == pytest.approx(whole[0])
        assert layer["sigma"] == pytest.approx(2e-3, rel=0.05)
    report = package.analyze(adapter)
    text = str(report)
    assert "3 of 80 directions" in text
    assert f"rmtcli resize {adapter} --dry-run" in text
    assert "prune" not in text
    report.save(tmp_path / "page.html")
    assert "prune" not in (tmp_path / "page.html").read_text()
    with pytest.raises(UsageError, match="times the layers of a network"):
        package.analyze(adapter, batches=[1])
    with pytest.raises(UsageError, match="no layer of the adapter is left"):
        package.analyze(adapter, selection=package.Selection(include=["x"]))


def test_a_file_of_kohyas_is_analysed(tmp_path: Path) -> None:
    report = package.analyze(kohya_file(tmp_path / "style.safetensors", kohya_tensors()))
    assert [plan.layer.shape for plan in report.layers] == [(12, 4), (12, 4)]


def test_two_adapters_are_compared_whatever_their_ranks(tmp_path: Path, rmtcli: Run) -> None:
    paths = [noisy(tmp_path / name, seed) for seed, name in enumerate("ab")]
    shorter = tmp_path / "short"
    package.resize(paths[0], shorter, keep="rank:k=5")
    matrices = [products(path) for path in (*paths, shorter)]
    for path, other in ((paths[1], matrices[1]), (shorter, matrices[2])):
        difference = package.diff(paths[0], path)
        for layer in difference.layers:
            a, b = matrices[0][layer.name], other[layer.name]
            values = [np.linalg.svd(x, compute_uv=False) for x in (a, b)]
            assert layer.change == pytest.approx(np.linalg.norm(a - b) / np.linalg.norm(a))
            gap = np.abs(values[0] - values[1]).max() / values[0][0]
            assert layer.spectral == pytest.approx(gap, abs=1e-6)
            assert layer.before.norm == pytest.approx(np.linalg.norm(a))
            assert layer.after.largest == pytest.approx(values[1][0], rel=1e-5)
    assert [x.before.spikes for x in difference.layers] == [3, 0]
    assert [x.after.rank for x in difference.layers] == [5, 5]
    done = rmtcli("diff", *paths, "--json")
    assert json.loads(done.stdout)["layers"][0]["name"] == "q"


def test_a_network_is_compared_with_itself_and_an_adapter(tmp_path: Path) -> None:
    torch.manual_seed(0)
    base = {"fc.weight": torch.randn(64, 48), "out.weight": torch.randn(40, 64)}
    path = tmp_path / "base.safetensors"
    save_file(base, path)
    tensors = lora("fc", *pair(64, 48))
    config = CONFIG | {"r": 4, "lora_alpha": 4, "target_modules": ["fc"]}
    adapter = peft_directory(tmp_path / "a", tensors, config)
    merged = tmp_path / "merged.safetensors"
    package.merge(path, adapter, merged)
    own, other = (package.diff(path, x).layers for x in (adapter, merged))
    assert own == other
    assert own[0].change > 0.1 > own[1].change == 0
    with pytest.raises(UsageError, match="name the network first"):
        package.diff(adapter, path)
