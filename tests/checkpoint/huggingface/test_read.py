from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from rmtcli.checkpoint import open_checkpoint
from rmtcli.errors import CheckpointError, RmtcliError, UsageError
from rmtcli.layers import Layer, Skipped, SkipReason, find_layers
from tests.conftest import model_directory


def state() -> dict[str, torch.Tensor]:
    torch.manual_seed(0)
    names = ("embed.weight", "h.2.a.weight", "h.10.a.weight", "h.2.b.weight", "head.weight")
    return {name: torch.randn(64, 40).to(torch.bfloat16) for name in names}


@pytest.mark.parametrize("container", ["safetensors", "bin"])
@pytest.mark.parametrize("shards", [1, 3])
def test_weights_do_not_depend_on_how_they_are_sharded(
    tmp_path: Path, container: str, shards: int
) -> None:
    folder = model_directory(tmp_path / "m", state(), shards=shards, container=container)
    checkpoint = open_checkpoint(folder)
    assert checkpoint.path == folder
    assert list(checkpoint.infos) == [
        "embed.weight",
        "h.2.a.weight",
        "h.2.b.weight",
        "h.10.a.weight",
        "head.weight",
    ]
    for name, value in state().items():
        np.testing.assert_array_equal(checkpoint.array(name), value.float().numpy())
        np.testing.assert_array_equal(checkpoint.array(name, (3, 9)), value[3:9].float().numpy())
        assert checkpoint.nbytes(name) == 64 * 40 * 2
    assert len(checkpoint.files) == shards + 1


def test_safetensors_come_before_pickles(tmp_path: Path) -> None:
    folder = model_directory(tmp_path / "m", state())
    torch.save({"other.weight": torch.ones(40, 40)}, folder / "pytorch_model.bin")
    assert "other.weight" not in open_checkpoint(folder).infos


def test_equal_tensors_in_two_shards_are_tied(tmp_path: Path) -> None:
    tensors = state()
    tensors["head.weight"] = tensors["embed.weight"].clone()
    folder = model_directory(tmp_path / "m", tensors, shards=2)
    kinds = {item.name: item for item in find_layers(open_checkpoint(folder))}
    assert kinds["head.weight"] == Skipped("head.weight", SkipReason.TIED)
    assert kinds["embed.weight"] == Skipped("embed.weight", SkipReason.EMBEDDING)


def test_older_sentence_transformers_keep_the_model_in_a_folder(tmp_path: Path) -> None:
    model_directory(tmp_path / "m" / "0_Transformer", state())
    modules = [{"path": "0_Transformer"}, {"path": "1_Pooling"}]
    (tmp_path / "m" / "modules.json").write_text(json.dumps(modules))
    checkpoint = open_checkpoint(tmp_path / "m")
    assert checkpoint.path == tmp_path / "m"
    assert len(checkpoint.infos) == 5


def test_gpt2_weights_are_transposed(tmp_path: Path) -> None:
    from transformers import GPT2Config, GPT2LMHeadModel

    config = GPT2Config(n_embd=64, n_layer=1, n_head=2, vocab_size=300, n_positions=40)
    model = GPT2LMHeadModel(config)
    model.save_pretrained(tmp_path / "m")
    layers = [i for i in find_layers(open_checkpoint(tmp_path / "m")) if isinstance(i, Layer)]
    assert {layer.module.removeprefix("transformer."): layer.shape for layer in layers} == {
        "h.0.attn.c_attn": (192, 64),
        "h.0.attn.c_proj": (64, 64),
        "h.0.mlp.c_fc": (256, 64),
        "h.0.mlp.c_proj": (64, 256),
    }
    # The shape of a square weight tells nothing: its name and the model's type decide.
    square = next(layer for layer in layers if layer.name.endswith("attn.c_proj.weight"))
    stored = model.transformer.h[0].attn.c_proj.weight.detach().numpy()
    np.testing.assert_array_equal(square.load(), stored.T)


def test_t5_shared_weights_are_an_embedding_by_the_vocabulary(tmp_path: Path) -> None:
    from transformers import T5Config, T5ForConditionalGeneration

    config = T5Config(d_model=64, d_ff=96, num_layers=1, num_heads=2, d_kv=32, vocab_size=300)
    T5ForConditionalGeneration(config).save_pretrained(tmp_path / "m")
    kinds = {item.name: item for item in find_layers(open_checkpoint(tmp_path / "m"))}
    assert kinds["shared.weight"] == Skipped("shared.weight", SkipReason.EMBEDDING)
    assert isinstance(kinds["encoder.block.0.layer.0.SelfAttention.q.weight"], Layer)


def test_quantised_weights_are_skipped_with_their_reason(tmp_path: Path) -> None:
    config = {"model_type": "llama", "quantization_config": {"quant_method": "fp8"}}
    tensors = state() | {"q.weight": torch.ones(64, 64).to(torch.float8_e4m3fn)}
    items = find_layers(open_checkpoint(model_directory(tmp_path / "m", tensors, config)))
    reasons = {item.name: item.reason for item in items if isinstance(item, Skipped)}
    assert reasons["q.weight"] is SkipReason.NOT_FLOAT
    assert reasons["h.2.a.weight"] is SkipReason.QUANTIZED
    assert len(reasons) == 6


def missing_shard(folder: Path) -> None:
    (folder / "model-00002-of-00003.safetensors").unlink()


def short_shard(folder: Path) -> None:
    file = folder / "model-00002-of-00003.safetensors"
    tensors = load_file(file)
    tensors.pop("head.weight")
    save_file(tensors, file)


def long_shard(folder: Path) -> None:
    file = folder / "model-00002-of-00003.safetensors"
    save_file(load_file(file) | {"a.weight": torch.ones(2)}, file)


def damaged_shard(folder: Path) -> None:
    file = folder / "model-00002-of-00003.safetensors"
    file.write_bytes(file.read_bytes()[:-1])


def no_weights(folder: Path) -> None:
    for file in folder.glob("model*"):
        file.unlink()
    (folder / "tf_model.h5").touch()


def adapter(folder: Path) -> None:
    no_weights(folder)
    (folder / "adapter_config.json").write_text("{}")


def text_for_index(folder: Path) -> None:
    (folder / "model.safetensors.index.json").write_text("{nonsense")


def outside(folder: Path) -> None:
    index = {"weight_map": {"a": "../other.safetensors"}}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))


def pointer(folder: Path) -> None:
    file = folder / "model-00002-of-00003.safetensors"
    file.write_text("version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 1\n")


def no_config(folder: Path) -> None:
    (folder / "config.json").unlink()


def listed_config(folder: Path) -> None:
    (folder / "config.json").write_text("[]")


def pipeline(folder: Path) -> None:
    (folder / "model_index.json").write_text("{}")


def escaping_module(folder: Path) -> None:
    (folder / "modules.json").write_text('[{"path": "../x"}]')


#: what to break -> (kind of error, its line without the directory)
BROKEN = {
    missing_shard: (
        CheckpointError,
        "/model.safetensors.index.json: names model-00002-of-00003.safetensors, which is not "
        "there: download it again",
    ),
    short_shard: (
        CheckpointError,
        "/model.safetensors.index.json: says that model-00002-of-00003.safetensors holds "
        "'head.weight', which it does not: index and shards are not of one model",
    ),
    long_shard: (
        CheckpointError,
        "/model.safetensors.index.json: the tensor 'a.weight' is in "
        "model-00002-of-00003.safetensors as well as in model-00001-of-00003.safetensors: "
        "the shards are not of one model",
    ),
    damaged_shard: (
        CheckpointError,
        "/model-00002-of-00003.safetensors: not a whole safetensors file",
    ),
    no_weights: (
        CheckpointError,
        ": has a config.json, but no weights named model.safetensors or pytorch_model.bin, "
        "but tf_model.h5: download or save them",
    ),
    adapter: (
        UsageError,
        ": holds an adapter only: see rmtcli resize --dry-run, or rmtcli merge",
    ),
    text_for_index: (CheckpointError, "/model.safetensors.index.json: damaged: not JSON"),
    outside: (
        CheckpointError,
        "/model.safetensors.index.json: names the file '../other.safetensors' outside of its",
    ),
    pointer: (
        CheckpointError,
        "/model-00002-of-00003.safetensors: a Git LFS pointer: fetch the file with 'git lfs pull'",
    ),
    no_config: (UsageError, ": is a directory: name the checkpoint file in it"),
    listed_config: (CheckpointError, "/config.json: damaged: not a JSON object"),
    pipeline: (UsageError, ": a pipeline of several models: name the folder of one"),
    escaping_module: (CheckpointError, "/modules.json: names the folder '../x' outside of the"),
}


@pytest.mark.parametrize("broken", BROKEN, ids=lambda broken: broken.__name__)
def test_a_broken_directory_is_reported_in_one_line(tmp_path: Path, broken: object) -> None:
    names = ("a.weight", "head.weight", "h.2.b.weight")
    folder = model_directory(tmp_path / "m", {n: torch.ones(2) for n in names}, shards=3)
    broken(folder)  # type: ignore[operator]
    kind, line = BROKEN[broken]  # type: ignore[index]
    with pytest.raises(RmtcliError) as caught:
        open_checkpoint(folder)
    assert type(caught.value) is kind
    assert str(caught.value).startswith(f"{folder}{line}")
    assert "\n" not in str(caught.value)
