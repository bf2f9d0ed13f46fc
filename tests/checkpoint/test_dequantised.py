"""Directories whose weights other tools have quantised are read as the weights that they hold."""

from __future__ import annotations

import json
import re
import sys
from pathlib import Path
from random import Random

import numpy as np
import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file

import rmtcli
from rmtcli.checkpoint import open_checkpoint
from rmtcli.errors import CheckpointError, RmtcliError, UsageError
from tests.checkpoint.quantised import KINDS, NAME, WEIGHT, quantised_directory
from tests.conftest import model_directory
from tests.fuzz.mutations import damaged


@pytest.fixture(params=KINDS)
def directory(tmp_path: Path, request: pytest.FixtureRequest) -> Path:
    return quantised_directory(tmp_path / "m", request.param)


def test_weights_are_read_pruned_and_compared(
    directory: Path, request: pytest.FixtureRequest, tmp_path: Path
) -> None:
    kind = request.node.callspec.params["directory"]
    checkpoint = open_checkpoint(directory)
    assert list(checkpoint.infos) == ["layers.0.fc.bias", NAME, "layers.1.fc.weight"]
    dtype = "F16" if kind == "AutoAWQ" else "BF16"
    assert (checkpoint.infos[NAME].shape, checkpoint.infos[NAME].dtype) == ((96, 64), dtype)
    values = checkpoint.array(NAME).astype(np.float32)
    error = np.abs(values - WEIGHT.float().numpy()).max() / WEIGHT.abs().max().item()
    assert 0 < error < KINDS[kind][1]
    # The file's own bytes, without those of the other layer.
    stored = safe_open(directory / "model.safetensors", "pt")
    sizes = {name: stored.get_tensor(name).nbytes for name in stored.keys()}  # noqa: SIM118
    others = sizes["layers.1.fc.weight"] + sizes["layers.0.fc.bias"]
    assert checkpoint.nbytes(NAME) == sum(sizes.values()) - others

    rmtcli.prune(directory, tmp_path / "out", keep="rank:k=8", layout="dense")
    written = load_file(tmp_path / "out/model.safetensors")
    assert set(written) == set(checkpoint.infos)
    left, sizes, right = np.linalg.svd(values)
    best = left[:, :8] * sizes[:8] @ right[:8]
    assert np.abs(written[NAME].float().numpy() - best).max() < 2**-7 * np.abs(best).max()
    assert "quantization_config" not in json.loads((tmp_path / "out/config.json").read_text())


CODES = torch.ones(64, 48, dtype=torch.int8)
#: Method -> (tensors in the form that its tool writes, its package).
FORMS = {
    "bitsandbytes": ({"weight": CODES, "SCB": torch.ones(64)}, "bitsandbytes"),
    "compressed-tensors": (
        {"weight": CODES, "weight_scale": torch.ones(64, 1)},
        "compressed-tensors",
    ),
    "fp8": (
        {"weight": CODES.to(torch.float8_e4m3fn), "weight_scale_inv": torch.ones(1, 1)},
        "compressed-tensors",
    ),
    "awq": ({"qweight": CODES.int(), "scales": torch.ones(1, 384)}, "compressed-tensors"),
}


@pytest.mark.parametrize("method", FORMS)
def test_a_package_that_is_missing_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, method: str
) -> None:
    parts, package = FORMS[method]
    settings = {"quant_method": method, "weight_block_size": [64, 64]}
    tensors = {f"a.{name}": value for name, value in parts.items()}
    model_directory(tmp_path / "m", tensors, {"quantization_config": settings})
    monkeypatch.setattr("rmtcli.checkpoint.dequantised.tools.find_spec", lambda name: None)
    monkeypatch.setitem(sys.modules, package.replace("-", "_"), None)
    for module in ("quantization", "entrypoints.convert"):
        monkeypatch.setitem(sys.modules, f"compressed_tensors.{module}", None)
    with pytest.raises(UsageError, match=rf"m: its weights need .*: pip install {package}$"):
        open_checkpoint(tmp_path / "m")


def test_codes_that_no_tool_describes_are_left_alone(tmp_path: Path) -> None:
    """Of float8 with one scale per matrix, and of a method that is not read."""
    tensors = {"a.weight": CODES.to(torch.float8_e4m3fn), "a.weight_scale_inv": torch.ones(())}
    for method in ("fp8", "gptq"):
        folder = model_directory(
            tmp_path / method, tensors, {"quantization_config": {"quant_method": method}}
        )
        checkpoint = open_checkpoint(folder)
        assert checkpoint.about.quantized == method
        assert list(checkpoint.infos) == list(tensors)


def test_parts_in_different_shards(tmp_path: Path) -> None:
    folder = quantised_directory(tmp_path / "m", "blocks of float8")
    whole = open_checkpoint(folder).array(NAME)
    tensors = load_file(folder / "model.safetensors")
    (folder / "model.safetensors").unlink()
    shards = {name: f"{i}.safetensors" for i, name in enumerate(tensors)}
    for name, shard in shards.items():
        save_file({name: tensors[name]}, folder / shard)
    index = {"metadata": {}, "weight_map": shards}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    assert np.array_equal(open_checkpoint(folder).array(NAME), whole)


def change(folder: Path, name: str, value: torch.Tensor) -> None:
    """Replace or add a tensor of a directory's file."""
    with safe_open(folder / "model.safetensors", "pt") as file:
        metadata = file.metadata()
    tensors = load_file(folder / "model.safetensors") | {name: value}
    save_file(tensors, folder / "model.safetensors", metadata=metadata)


#: Kind -> (a tensor, what it is replaced by, the message).
DAMAGED = {
    "bitsandbytes, nf4": (
        f"{NAME}.quant_state.bitsandbytes__nf4",
        torch.frombuffer(
            bytearray(b'{"shape": [99999, 99999], "dtype": "bfloat16"}'), dtype=torch.uint8
        ),
        "damaged: has no (99999, 99999) codes",
    ),
    "bitsandbytes, 8 bits": (
        "layers.0.fc.SCB",
        torch.ones(7),
        "damaged: ",
    ),
    "torchao, 8 bits": ("layers.0.fc._weight_scale", torch.ones(7, 3, 2), "not read by torchao: "),
    "compressed-tensors, 4 bits with zero points": (
        "layers.0.fc.weight_shape",
        torch.tensor([96, 9999]),
        "damaged: has no (96, 9999) codes",
    ),
    "compressed-tensors, 8 bits": ("layers.0.fc.weight_scale", torch.ones(7, 3), "damaged: "),
    "AutoAWQ": ("layers.0.fc.qzeros", torch.ones(7, 3).int(), "damaged: "),
    "blocks of float8": ("layers.0.fc.weight_scale_inv", torch.ones(7, 3), "damaged: "),
}


@pytest.mark.parametrize("kind", DAMAGED)
def test_damaged_parts_are_refused(tmp_path: Path, kind: str) -> None:
    folder = quantised_directory(tmp_path / "m", kind)
    name, value, message = DAMAGED[kind]
    change(folder, name, value)
    with pytest.raises(CheckpointError) as caught:
        open_checkpoint(folder).raw(NAME)
    assert message in str(caught.value)
    assert f"'{NAME}" in str(caught.value)


def with_targets(folder: Path, *targets: str) -> Path:
    """A directory whose group of modules is named so."""
    config = json.loads((folder / "config.json").read_text())
    config["quantization_config"]["config_groups"]["group_0"]["targets"] = targets
    (folder / "config.json").write_text(json.dumps(config))
    return folder


#: Targets -> the message.
WRONG = {
    "other": "has no group of weights for 'layers.0.fc'",
    "re:(l+)+$": "the pattern '(l+)+$' may take too long to match",
    "re:.*a.*b.*c.*d": "may take too long to match",
    "re:(": "'(': missing ), unterminated subpattern",
    "": "has no group of weights",
}


def test_groups_of_modules_are_matched_by_name(tmp_path: Path) -> None:
    folder = quantised_directory(tmp_path / "m", "compressed-tensors, 8 bits")
    values = open_checkpoint(folder).array(NAME)
    for target in ("layers.0.fc", r"re:.*layers\.\d+\.(fc|up)$"):
        assert np.array_equal(open_checkpoint(with_targets(folder, target)).array(NAME), values)
    for target, message in WRONG.items():
        with pytest.raises(CheckpointError, match=re.escape(message)):
            open_checkpoint(with_targets(folder, target))
    config = json.loads((folder / "config.json").read_text())
    config["quantization_config"]["config_groups"] = [1]
    (folder / "config.json").write_text(json.dumps(config))
    with pytest.raises(CheckpointError, match=r"config\.json: damaged: .*config_groups"):
        open_checkpoint(folder)


def test_what_the_package_does_not_undo_is_left_alone(tmp_path: Path) -> None:
    """Groups in another order than that of the columns."""
    folder = quantised_directory(tmp_path / "m", "compressed-tensors, 4 bits with zero points")
    change(folder, "layers.0.fc.weight_g_idx", torch.arange(64).flip(0) // 32)
    checkpoint = open_checkpoint(folder)
    assert checkpoint.about.quantized == "compressed-tensors"
    assert "layers.0.fc.weight_packed" in checkpoint.infos
    assert NAME not in checkpoint.infos


@pytest.mark.slow
@pytest.mark.parametrize("file", ["config.json", "model.safetensors"])
def test_damaged_files_are_read_or_refused(directory: Path, file: str) -> None:
    whole, read = (directory / file).read_bytes(), 0
    for number in range(400):
        (directory / file).write_bytes(damaged(whole, [whole], Random(number)))
        try:
            checkpoint = open_checkpoint(directory)
            for name in checkpoint.infos:
                checkpoint.raw(name)
            read += 1
        except RmtcliError:
            pass
    assert 0 < read < 400
