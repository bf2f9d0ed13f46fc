"""An adapter of lower rank: the best approximation, with the same scale, in either style."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

import rmtcli
from rmtcli.adapters import AdaptedLayer, Adapter, Style, read_adapter, write_adapter
from rmtcli.checkpoint import encode
from rmtcli.errors import CheckpointError, LayerError, UsageError
from tests.adapters.made import (
    CONFIG,
    kohya_file,
    kohya_tensors,
    pair,
    peft_directory,
    two_layers,
)
from tests.conftest import Run


def _change(layer: AdaptedLayer) -> np.ndarray:
    left, right = layer.factors()
    return layer.scale * left @ right


def _best(change: np.ndarray, rank: int) -> np.ndarray:
    u, s, vt = np.linalg.svd(change, full_matrices=False)
    return (u[:, :rank] * s[:rank]) @ vt[:rank]


@pytest.mark.parametrize("rslora", [False, True])
def test_each_layer_gets_its_best_approximation(tmp_path: Path, rslora: bool) -> None:
    config = CONFIG | {"use_rslora": rslora, "alpha_pattern": {"v": 3}}
    source = peft_directory(tmp_path / "in", two_layers(), config)
    result = rmtcli.resize(source, tmp_path / "out", keep="rank:k=2")
    before, after = read_adapter(source), read_adapter(tmp_path / "out")
    for old, new, told in zip(before.layers, after.layers, result.layers, strict=True):
        assert (new.rank, new.scale) == (2, pytest.approx(old.scale, rel=1e-15))
        best = _best(_change(old), 2)
        np.testing.assert_allclose(_change(new), best, atol=1e-5 * np.abs(best).max())
        share = np.linalg.norm(best) / np.linalg.norm(_change(old))
        assert told.kept == pytest.approx(share)
        assert told.norm == pytest.approx(np.linalg.norm(_change(old)))


def test_a_convolution_is_a_matrix_of_flattened_kernels(tmp_path: Path) -> None:
    source = kohya_file(tmp_path / "in.safetensors", kohya_tensors())
    rmtcli.resize(source, tmp_path / "out.safetensors", max_rank=2, keep="energy:fraction=1")
    old, new = (read_adapter(tmp_path / f"{name}.safetensors").layers[1] for name in ("in", "out"))
    assert (new.left.shape, new.right.shape) == ((12, 2, 1, 1), (2, 3, 3, 3))
    np.testing.assert_allclose(_change(new), _best(_change(old), 2), atol=1e-5)


def _written(path: Path, *layers: AdaptedLayer, **fields: object) -> Path:
    """An adapter with these layers, as a directory of PEFT."""
    write_adapter(replace(Adapter(path, layers), **fields), path)  # type: ignore[arg-type]
    return path


def _noisy(name: str, spikes: int, rank: int = 40, *, alpha: float = 4.0) -> AdaptedLayer:
    """Independent noise in the directions that A reads, and some of them strong."""
    rng = np.random.default_rng(len(name) + spikes)
    left = rng.standard_normal((200, rank))
    left[:, :spikes] *= 12
    basis = np.linalg.qr(rng.standard_normal((100, rank)))[0].T
    turn = np.linalg.qr(rng.standard_normal((rank, rank)))[0]
    factors = (encode(x.astype(np.float32), "F32") for x in (left @ turn, turn.T @ basis))
    return AdaptedLayer(name, *factors, alpha)


def test_the_edge_finds_the_planted_rank_and_drops_noise(tmp_path: Path) -> None:
    layers = [_noisy("a.q", 5), _noisy("a.v", 0), _noisy("few", 2, rank=8)]
    head = encode(np.ones((2, 100), np.float32), "F32")
    source = _written(tmp_path / "in", *layers, saved={"head.weight": head})
    result = rmtcli.resize(source, tmp_path / "out")
    assert [x.rank for x in result.layers] == [5, 0, 8]
    assert "noise only" in result.layers[1].reason
    assert "too few to fit" in result.layers[2].reason
    after = read_adapter(tmp_path / "out")
    assert after.config["target_modules"] == ["a.q", "few"]
    assert set(after.saved) == {"head.weight"}
    np.testing.assert_array_equal(after.layers[1].left.read().data, layers[2].left.read().data)


def test_an_adapter_of_noise_alone_is_not_written(tmp_path: Path) -> None:
    source = _written(tmp_path / "in", _noisy("a", 0))
    with pytest.raises(LayerError, match="no layer has signal to keep: no adapter written"):
        rmtcli.resize(source, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_an_adapter_without_an_edge_is_not_copied(tmp_path: Path) -> None:
    """Too few singular values for a law; a rule that needs none is named."""
    source = peft_directory(tmp_path / "in", two_layers())
    assert [x.rank for x in rmtcli.resize(source, dry_run=True).layers] == [4, 4]
    with pytest.raises(LayerError, match=r"no layer gets a lower rank by keep auto.*give budget="):
        rmtcli.resize(source, tmp_path / "out")
    rmtcli.resize(source, tmp_path / "out.safetensors", style="kohya")


def test_a_rank_above_the_layers_sides_is_no_obstacle(tmp_path: Path) -> None:
    left, right = (encode(x.numpy(), "BF16") for x in pair(6, 5, 16))
    source = _written(tmp_path / "in", AdaptedLayer("a", left, right, 16))
    result = rmtcli.resize(source, tmp_path / "out", keep="energy:fraction=1")
    (old,), (new,) = (read_adapter(tmp_path / name).layers for name in ("in", "out"))
    assert (result.layers[0].rank, new.left.dtype) == (5, "BF16")
    np.testing.assert_allclose(_change(new), _change(old), atol=0.03 * np.abs(_change(old)).max())


def test_a_budget_is_divided_by_what_directions_are_worth(tmp_path: Path) -> None:
    strong, weak = _noisy("strong", 4, alpha=8), _noisy("weak", 4, alpha=1)
    source = _written(tmp_path / "in", strong, weak)
    result = rmtcli.resize(source, tmp_path / "out", budget="25%")
    before, after = result.parameters
    assert before == 2 * 40 * 300
    assert 0.25 * before - 300 < after <= 0.25 * before
    ranks = [x.rank for x in result.layers]
    assert ranks[0] > ranks[1]
    # No exchange of a direction keeps more.
    values = [np.linalg.svd(_change(x), compute_uv=False) for x in (strong, weak)]
    kept = [values[i][ranks[i] - 1] if ranks[i] else np.inf for i in range(2)]
    lost = [values[i][ranks[i]] for i in range(2)]
    assert min(kept) >= max(lost)
    small = rmtcli.resize(source, budget=rmtcli.Budget("10%", "bytes"), dry_run=True)
    assert small.bytes[1] <= 0.1 * small.bytes[0]


def test_magnitudes_stay_and_keep_their_layer(tmp_path: Path) -> None:
    noise, norms = _noisy("a", 0), encode(np.ones(200, np.float32), "F32")
    layer = replace(noise, magnitude=norms)
    rmtcli.resize(_written(tmp_path / "in", layer), tmp_path / "out")
    (after,) = read_adapter(tmp_path / "out").layers
    assert (after.rank, after.scale) == (1, layer.scale)
    assert after.magnitude is not None
    np.testing.assert_array_equal(after.magnitude.read().data, norms.data)


def test_magnitudes_have_no_one_shape_in_kohyas_style(tmp_path: Path) -> None:
    layer = replace(_noisy("a", 0), magnitude=encode(np.ones(200, np.float32), "F32"))
    source = _written(tmp_path / "in", layer)
    with pytest.raises(UsageError, match=r"has magnitudes .* write it as PEFT"):
        rmtcli.resize(source, tmp_path / "out.safetensors", style="kohya", max_rank=2)


def test_factors_that_change_nothing_are_dropped(tmp_path: Path) -> None:
    """Untrained layers: B begins at zero."""
    tensors = kohya_tensors(a_to_q__lora_up__weight=torch.zeros(12, 4))
    source = kohya_file(tmp_path / "in.safetensors", tensors)
    result = rmtcli.resize(source, tmp_path / "out.safetensors", keep="rank:k=3")
    assert [x.rank for x in result.layers] == [0, 3]
    assert "change nothing" in result.layers[0].reason


def test_a_directory_becomes_a_file_of_kohya_but_not_the_other_way(tmp_path: Path) -> None:
    source = peft_directory(tmp_path / "in", two_layers())
    options = {"keep": "rank:k=2", "style": "kohya"}
    rmtcli.resize(source, tmp_path / "out.safetensors", **options)
    written = read_adapter(tmp_path / "out.safetensors")
    assert written.style is Style.KOHYA
    assert [layer.module for layer in written.layers] == [
        "lora_unet_layers_0_q",
        "lora_unet_layers_0_v",
    ]
    assert {layer.scale for layer in written.layers} == {2.0}
    with pytest.raises(UsageError, match="underscores in place of dots"):
        rmtcli.resize(tmp_path / "out.safetensors", tmp_path / "back", style="peft")


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"max_rank": 0}, "max_rank= must be at least 1"),
        ({"style": "gguf"}, "style= is peft or kohya, not 'gguf'"),
        ({"budget": "10%", "keep": "edge"}, "give only one"),
        ({"budget": "1"}, "cannot be met"),
        ({"budget": rmtcli.Budget("10%", "macs")}, "in parameters or bytes"),
        ({"style": "kohya"}, "is a .safetensors file"),
        ({"output": "in"}, "is an input"),
    ],
)
def test_requests_that_are_refused(
    tmp_path: Path, options: dict[str, object], words: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    peft_directory(tmp_path / "in", two_layers())
    with pytest.raises(UsageError) as caught:
        rmtcli.resize("in", **options)  # type: ignore[arg-type]
    assert words in str(caught.value)


def test_values_that_are_not_finite_are_refused(tmp_path: Path) -> None:
    tensors = kohya_tensors(a_to_q__lora_up__weight=torch.full((12, 4), torch.inf))
    source = kohya_file(tmp_path / "in.safetensors", tensors)
    with pytest.raises(CheckpointError, match="NaN or infinite"):
        rmtcli.resize(source, tmp_path / "out.safetensors", keep="rank:k=1")
    assert not (tmp_path / "out.safetensors").exists()


def test_the_command_prints_a_table_or_json(rmtcli: Run, tmp_path: Path) -> None:
    source = peft_directory(tmp_path / "in", two_layers())
    (source / "tokenizer.json").write_text("{}")
    run = rmtcli("resize", source, "--max-rank", 3, "--keep", "energy:fraction=1")
    assert run.returncode == 0, run.stderr
    assert "4 → 3" in run.stdout
    assert "not copied: tokenizer.json" in run.stdout
    assert (tmp_path / "in.resized" / "adapter_config.json").exists()
    again = rmtcli("resize", source, "--max-rank", 3, "--dry-run", "--json")
    record = json.loads(again.stdout)
    assert [layer["rank"] for layer in record["layers"]] == [{"before": 4, "after": 3}] * 2
    assert record["output"] is None
    refused = rmtcli("resize", tmp_path / "none")
    assert (refused.returncode, refused.stderr.count("\n")) == (2, 1)
