"""Weights are found under every name that tools give them, or the folder is named as what it is."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from unittest.mock import Mock

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

import rmtcli
from rmtcli.checkpoint import open_checkpoint
from rmtcli.errors import CheckpointError, RmtcliError, UsageError
from tests.conftest import model_directory, planted

NAMES = ("h.0.weight", "h.1.weight", "h.2.weight")


def state() -> dict[str, torch.Tensor]:
    signal = torch.from_numpy(planted((96, 64), 3, times=4)).float()
    return {name: signal + i for i, name in enumerate(NAMES)}


def check_values(folder: Path) -> None:
    checkpoint = open_checkpoint(folder)
    assert tuple(checkpoint.infos) == NAMES
    for name, value in state().items():
        np.testing.assert_array_equal(checkpoint.array(name), value.numpy())


@pytest.mark.parametrize(
    ("plain", "name"),
    [
        ("safetensors", "model.fp16.safetensors"),
        ("bin", "pytorch_model.fp16.bin"),
    ],
)
def test_the_only_variant_is_read_and_named(tmp_path: Path, plain: str, name: str) -> None:
    folder = model_directory(tmp_path / "m", state(), container=plain)
    next(folder.glob(f"*model.{plain}")).rename(folder / name)
    check_values(folder)
    report = rmtcli.prune(folder, keep="rank:k=3")
    assert f"read the only variant of the weights: {name}" in report.notes
    out = {path.name for path in (tmp_path / "m.pruned").iterdir()}
    assert "model.safetensors" in out
    assert name not in out


@pytest.mark.parametrize("plain", ["safetensors", "bin"])
def test_shards_without_an_index_are_read_if_all_are_there(tmp_path: Path, plain: str) -> None:
    folder = model_directory(tmp_path / "m", state(), shards=3, container=plain)
    next(folder.glob("*.index.json")).unlink()
    check_values(folder)
    remark = "the 3 shards have no index: all of them were read"
    assert remark in rmtcli.analyze(folder).notes


def test_a_tensor_that_the_index_lacks_is_kept_as_transformers_does(tmp_path: Path) -> None:
    folder = model_directory(tmp_path / "m", state(), shards=3)
    index = folder / "model.safetensors.index.json"
    values = json.loads(index.read_text())
    del values["weight_map"]["h.1.weight"]
    index.write_text(json.dumps(values))
    # The shard is still named for another tensor.
    file = folder / "model-00002-of-00003.safetensors"
    save_file(load_file(file) | {"g.weight": torch.ones(2)}, file, {"format": "pt"})
    values["weight_map"]["g.weight"] = file.name
    index.write_text(json.dumps(values))
    report = rmtcli.prune(folder, keep="rank:k=3", output=tmp_path / "out")
    assert (
        "the index does not list 'h.1.weight'; kept, because transformers reads whole shards"
        in report.notes
    )
    written = open_checkpoint(tmp_path / "out")
    assert {name for name in written.infos if name.startswith("h.1")} == {
        "h.1.0.weight",
        "h.1.1.weight",
    }


def test_transformers_reads_tensors_that_an_index_lacks(tmp_path: Path) -> None:
    """What :func:`rmtcli.checkpoint.open_checkpoint` follows."""
    from transformers import BertConfig, BertModel

    sizes = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 1}
    model = BertModel(BertConfig(**sizes, intermediate_size=16, vocab_size=20))
    model.save_pretrained(tmp_path, max_shard_size="10KB")
    index, name = tmp_path / "model.safetensors.index.json", "pooler.dense.weight"
    values = json.loads(index.read_text())
    shard = values["weight_map"].pop(name)
    assert shard in values["weight_map"].values()
    index.write_text(json.dumps(values))
    opened = BertModel.from_pretrained(tmp_path)
    assert torch.equal(opened.state_dict()[name], model.state_dict()[name])
    expected = model.state_dict()[name].numpy()
    np.testing.assert_array_equal(open_checkpoint(tmp_path).array(name), expected)


def hub(tmp_path: Path, *snapshots: str) -> Path:
    folder = tmp_path / "models--org--name"
    (folder / "snapshots").mkdir(parents=True)
    for name in snapshots:
        model_directory(folder / "snapshots" / name, state())
    return folder


def test_a_folder_of_the_hubs_cache_stands_for_a_snapshot(tmp_path: Path) -> None:
    folder = hub(tmp_path, "aa")
    check_values(folder)
    model_directory(folder / "snapshots" / "bb", {"other.weight": torch.ones(2, 2)})
    (folder / "refs").mkdir()
    (folder / "refs" / "main").write_text("bb\n")
    assert open_checkpoint(folder).path == folder / "snapshots" / "bb"
    (folder / "refs" / "main").write_text("aa")
    check_values(folder)
    rmtcli.prune(folder, keep="rank:k=3", output=tmp_path / "out")
    assert open_checkpoint(tmp_path / "out").manifest is not None


def test_an_adapter_beside_weights_is_neither_read_nor_copied(tmp_path: Path) -> None:
    folder = model_directory(tmp_path / "m", state())
    (folder / "adapter_config.json").write_text('{"peft_type": "LORA"}')
    save_file({"q.lora_A.weight": torch.ones(8, 64)}, folder / "adapter_model.safetensors")
    torch.save({}, folder / "adapter_model.bin")
    check_values(folder)
    note = "the adapter beside the weights (adapter_config.json) is neither read nor copied: "
    assert [n for n in rmtcli.analyze(folder).notes if n.startswith(note)]
    notes = rmtcli.prune(folder, keep="rank:k=3").notes
    assert len([n for n in notes if "adapter" in n]) == 1
    assert [n for n in notes if n.startswith(note)]
    assert not list((tmp_path / "m.pruned").glob("adapter*"))


def write(folder: Path, *names: str, config: str | None = "{}") -> Path:
    folder.mkdir(parents=True)
    if config is not None:
        (folder / "config.json").write_text(config)
    for name in names:
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_bytes(b"x")
    return folder


STANDARD = "has a config.json, but no weights named model.safetensors or pytorch_model.bin"
DCP = "torch.distributed.checkpoint.format_utils dcp_to_torch"
#: name -> (files, has a configuration, kind of error, words of its message)
FOLDERS = {
    "diffusers": (
        ("diffusion_pytorch_model.safetensors",),
        True,
        UsageError,
        f"{STANDARD}: name the file itself: FOLDER/diffusion_pytorch_model.safetensors",
    ),
    "two variants": (
        ("model.fp16.safetensors", "model.bf16.safetensors"),
        True,
        UsageError,
        "several variants of the weights: name one of model.bf16.safetensors, model.fp16.safetens",
    ),
    "some shards": (
        ("model-00001-of-00003.safetensors", "model-00003-of-00003.safetensors"),
        True,
        CheckpointError,
        "has 2 of 3 shards, such as model-00001-of-00003.safetensors, and no index: download",
    ),
    "distributed": (("__0_0.distcp", ".metadata"), False, UsageError, f"{DCP} FOLDER FILE.pt"),
    "accelerate's": (
        ("pytorch_model_fsdp_0/__0_0.distcp",),
        True,
        UsageError,
        f"{DCP} FOLDER/pytorch_model_fsdp_0 FILE.pt",
    ),
    "DeepSpeed's": (
        ("zero_to_fp32.py", "latest"),
        False,
        UsageError,
        "write one file with 'python FOLDER/zero_to_fp32.py FOLDER OUTPUT'",
    ),
    "a folder of DeepSpeed's": (
        ("../zero_to_fp32.py", "../latest", "mp_rank_00_model_states.pt"),
        False,
        UsageError,
        "zero_to_fp32.py",
    ),
    "TensorFlow's": (("tf_model.h5",), True, CheckpointError, "tf_model.h5: download or save them"),
}


@pytest.mark.parametrize("name", FOLDERS)
def test_another_kind_of_folder_is_named(tmp_path: Path, name: str) -> None:
    files, has_config, kind, words = FOLDERS[name]
    folder = write(tmp_path / "m", *files, config="{}" if has_config else None)
    with pytest.raises(RmtcliError) as caught:
        open_checkpoint(folder)
    assert type(caught.value) is kind
    assert str(caught.value).startswith(f"{folder}: ")
    assert words.replace("FOLDER", str(folder)) in str(caught.value)


def test_a_name_of_the_hub_is_downloaded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setitem(sys.modules, "huggingface_hub", stub := Mock(__spec__=Mock()))
    snapshot = tmp_path / "cache/models--org--small/snapshots/0f"
    model_directory(snapshot, state())
    stub.snapshot_download.return_value = str(snapshot)
    report = rmtcli.prune("org/small", keep="rank:k=3")
    assert stub.snapshot_download.call_args.args == ("org/small",)
    assert (tmp_path / "small.pruned/model.safetensors").is_file()
    assert report.output is not None
    assert report.output.path == "small.pruned"
    stub.snapshot_download.side_effect = OSError("no connection\nat all")
    with pytest.raises(
        FileNotFoundError, match=r"^org/small: no such file, and .*\(no connection\)"
    ):
        open_checkpoint("org/small")
    monkeypatch.setattr("rmtcli.checkpoint.hub.find_spec", Mock(return_value=None))
    with pytest.raises(
        UsageError, match=r"of the Hub, 'hf download org/small --local-dir FOLDER'$"
    ):
        open_checkpoint("org/small")


def test_names_that_lead_nowhere_say_where_the_model_is(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    write(Path("d"), "__0_0.distcp", config=None)
    messages = {
        "d/__0_0.distcp": f"a distributed checkpoint of torch, in parts: .* {DCP} d FILE.pt",
        "d/gone.pt": "no such file$",
        "gone": "no such file$",
    }
    for path, message in messages.items():
        with pytest.raises(UsageError, match=f"^{path}: {message}"):
            open_checkpoint(path)
    empty, many = hub(tmp_path / "1"), hub(tmp_path / "2", "aa", "bb")
    with pytest.raises(UsageError, match=r"without a model: .* 'hf download org/name'"):
        open_checkpoint(empty)
    with pytest.raises(UsageError, match="holds 2 snapshots: name one in its 'snapshots'"):
        open_checkpoint(many)
