from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

import rmtcli
from rmtcli.checkpoint.hashes import file_sha256
from tests.adapters.made import kohya_file, kohya_tensors, peft_directory, two_layers
from tests.conftest import Run, model_directory, planted


def test_a_written_file_names_its_source_and_its_ranks(
    tmp_path: Path, samples: Path, request: pytest.FixtureRequest
) -> None:
    run: Run = request.getfixturevalue("rmtcli")  # the name of the package too
    source = samples / "planted.safetensors"
    rmtcli.prune(source, tmp_path / "a.pt", keep="rank:k=3", edge="bema")
    result = rmtcli.info(tmp_path / "a.pt")
    assert result.manifest is not None
    assert result.manifest.source_sha256 == file_sha256(source)
    assert result.form == "torch file"
    ranks = {name: rank for name, rank in result.manifest.ranks.items() if rank == 3}
    assert len(ranks) == len(result.manifest.factored) == 4
    printed = run("info", tmp_path / "a.pt").stdout
    assert f"made from      planted.safetensors, sha256 {file_sha256(source)}" in printed
    assert "ranks by       keep rank:k=3" in printed
    for name in ranks:
        assert f"layer          {name}: rank 3, split in two" in printed
    values = json.loads(run("info", tmp_path / "a.pt", "--json").stdout)
    assert values["manifest"]["ranks"] == ranks
    assert values["source"]["bytes"] == (tmp_path / "a.pt").stat().st_size


def test_info_on_a_directory(tmp_path: Path) -> None:
    tensors = {"a.weight": torch.from_numpy(planted((64, 64), 2, times=4)).float()}
    tensors["n"] = torch.ones(3, dtype=torch.int64)
    result = rmtcli.info(model_directory(tmp_path / "m", tensors, shards=2))
    assert result.form == "Hugging Face directory"
    assert result.model_type == "bert"
    assert result.types == {"float32": 1, "int64": 1}
    assert result.files == ("model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors")
    assert (
        "rmtcli",
        "no record: not written by rmtcli, or converted back to dense",
    ) in result.lines


def test_info_on_an_adapter(tmp_path: Path) -> None:
    result = rmtcli.info(peft_directory(tmp_path / "a", two_layers()))
    assert (result.form, result.types) == ("LoRA adapter (peft)", {"float32": 4})
    assert ("changes", "2 layers, rank 4") in result.lines
    style = rmtcli.info(kohya_file(tmp_path / "a.safetensors", kohya_tensors()))
    assert style.form == "LoRA adapter (kohya)"
    assert json.loads(style.to_json())["adapter"]["layers"] == 2
