from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file

import rmtcli
from rmtcli.checkpoint import Manifest, open_checkpoint
from rmtcli.checkpoint.huggingface import write as directory
from rmtcli.checkpoint.huggingface.loading import IMPORT, TRUST
from rmtcli.checkpoint.huggingface.write import write_directory
from rmtcli.errors import CheckpointError, UsageError
from rmtcli.planning import Budget
from tests.conftest import model_directory, planted, tree

EMBEDDING, COPY, HEAD = "shared.weight", "encoder.embed_tokens.weight", "lm_head.weight"
CARD = "---\nlicense: mit\n---\n# A model\n"


def state(layers: int = 2) -> dict[str, torch.Tensor]:
    signal = torch.from_numpy(planted((96, 64), 3, times=4)).float()
    tensors = {f"h.{i}.fc.weight": signal + i for i in range(layers)}
    tensors |= {f"h.{i}.fc.bias": torch.randn(96) for i in range(layers)}
    return tensors | {"word_embeddings.weight": torch.randn(50, 64)}


@pytest.fixture
def model(tmp_path: Path) -> Path:
    folder = model_directory(tmp_path / "m", state(), {"model_type": "bert", "x": "é"}, shards=2)
    (folder / "README.md").write_text(CARD)
    (folder / "tf_model.h5").write_bytes(b"x")
    (folder / "onnx").mkdir()
    (folder / "onnx" / "model.onnx").write_bytes(b"x")
    (folder / "onnx" / "notes.txt").write_text("n")
    (folder / "2_Dense").mkdir()
    (folder / "2_Dense" / "model.safetensors").write_bytes(b"dense")
    (folder / ".git").mkdir()
    (folder / ".git" / "HEAD").write_text("x")
    (folder / "modules.json").write_text(json.dumps([{"path": ""}, {"path": "2_Dense"}]))
    return folder


def config(folder: Path) -> dict[str, Any]:
    values: dict[str, Any] = json.loads((folder / "config.json").read_text())
    return values


def test_a_complete_directory_is_written(model: Path) -> None:
    before = tree(model)
    report = rmtcli.prune(model, keep="rank:k=3")
    out = model.with_name("m.pruned")
    assert report.output is not None
    assert report.output.path == str(out)
    assert tree(model) == before
    assert {str(path.relative_to(out)) for path in out.rglob("*") if path.is_file()} - {
        "rmtcli_loading.py"
    } == {
        "config.json",
        "tokenizer.json",
        "README.md",
        "model.safetensors",
        "onnx/notes.txt",
        "2_Dense/model.safetensors",
        "modules.json",
    }
    assert "left out, because they hold the dense network: onnx/model.onnx, tf_model.h5" in (
        report.notes
    )
    ranks = {"h.0.fc": 3, "h.1.fc": 3}
    assert config(out) == {
        "model_type": "bert",
        "x": "é",
        "auto_map": {"AutoConfig": "rmtcli_loading.BertConfig"},
        "transformers_weights": IMPORT + TRUST,
        "quantization_config": {"quant_method": "rmtcli", "version": 1, "ranks": ranks},
    }
    written = load_file(out / "model.safetensors")
    assert written["h.1.fc.0.weight"].shape == (3, 64)
    assert torch.equal(written["word_embeddings.weight"], load_all(model)["word_embeddings.weight"])
    with safe_open(out / "model.safetensors", "pt") as file:
        notes = file.metadata()
    assert notes["format"] == "pt"
    manifest = Manifest.from_json(notes["rmtcli"])
    assert manifest is not None
    assert manifest.source_sha256 == report.source.sha256
    assert manifest.factored == ranks
    assert manifest.ranks == {"h.0.fc.weight": 3, "h.1.fc.weight": 3}
    assert manifest.made_by == "keep rank:k=3"


def load_all(folder: Path) -> dict[str, torch.Tensor]:
    files = folder.glob("model*.safetensors")
    return {name: value for file in files for name, value in load_file(file).items()}


def test_the_model_card_keeps_its_text_and_has_one_section(model: Path) -> None:
    rmtcli.prune(model, model.with_name("a"), keep="rank:k=3")
    card = (model.with_name("a") / "README.md").read_text()
    assert card.startswith(CARD)
    assert str(model.parent) not in card
    rmtcli.densify(model.with_name("a"), model.with_name("c"))
    assert (model.with_name("c") / "README.md").read_text() == CARD
    (model / "README.md").write_text(card)
    rmtcli.prune(model, model.with_name("d"), keep="rank:k=2")
    assert (model.with_name("d") / "README.md").read_text().count("## Compressed") == 1


def test_densify_restores_a_plain_directory(model: Path) -> None:
    rmtcli.prune(model, model.with_name("a"), keep="rank:k=3")
    rmtcli.densify(model.with_name("a"), model.with_name("b"))
    assert config(model.with_name("b")) == config(model)
    assert not (model.with_name("b") / "rmtcli_loading.py").exists()
    dense, product = load_all(model), load_all(model.with_name("b"))
    assert dense.keys() == product.keys()
    assert torch.linalg.matrix_rank(product["h.0.fc.weight"].double(), rtol=1e-5) == 3


def test_the_dense_layout_leaves_the_configuration(model: Path) -> None:
    rmtcli.prune(model, layout="dense", keep="rank:k=3")
    assert config(model.with_name("m.pruned")) == config(model)
    manifest = open_checkpoint(model.with_name("m.pruned")).manifest
    assert manifest is not None
    assert manifest.factored == {}
    assert manifest.ranks == {"h.0.fc.weight": 3, "h.1.fc.weight": 3}


def test_shards_are_divided_by_size_and_read_again(model: Path) -> None:
    source = open_checkpoint(model)
    size = source.nbytes("h.0.fc.weight")
    out = model.with_name("out")
    out.mkdir()
    write_directory(source, out, shard_bytes=size + 1000)
    index = json.loads((out / "model.safetensors.index.json").read_text())
    assert index["metadata"]["total_size"] == source.bytes
    assert len(set(index["weight_map"].values())) == 3
    for file in out.glob("model-*.safetensors"):
        assert sum(t.nbytes for t in load_file(file).values()) <= size + 1000
    again = open_checkpoint(out)
    for name in source.infos:
        assert again.raw(name).data.tobytes() == source.raw(name).data.tobytes()


def test_gpt2_factors_are_linear_and_densify_to_conv1d(tmp_path: Path) -> None:
    from transformers import GPT2Config, GPT2LMHeadModel

    small = GPT2Config(n_embd=64, n_layer=1, n_head=2, vocab_size=99, n_positions=40)
    GPT2LMHeadModel(small).save_pretrained(tmp_path / "m")
    rmtcli.prune(tmp_path / "m", tmp_path / "a", keep="rank:k=20")
    factors, dense = load_file(tmp_path / "a/model.safetensors"), load_all(tmp_path / "m")
    name = "transformer.h.0.mlp.c_fc"
    assert factors[f"{name}.0.weight"].shape == (20, 64)
    assert factors[f"{name}.1.weight"].shape == (256, 20)
    u, s, vh = torch.linalg.svd(dense[f"{name}.weight"].double())
    best = (u[:, :20] * s[:20]) @ vh[:20]
    rmtcli.densify(tmp_path / "a", tmp_path / "b")
    product = load_all(tmp_path / "b")[f"{name}.weight"].double()
    # Factors and product are rounded to float32, 6e-8 of their size each.
    torch.testing.assert_close(product, best, rtol=0, atol=1e-6 * float(best.abs().max()))
    rmtcli.prune(tmp_path / "m", tmp_path / "c", keep="rank:k=20", layout="dense")
    in_place = load_all(tmp_path / "c")[f"{name}.weight"].double()
    torch.testing.assert_close(in_place, best, rtol=0, atol=1e-6 * float(best.abs().max()))


def test_other_code_stays_in_the_configuration(tmp_path: Path) -> None:
    own = {"model_type": "new", "auto_map": {"AutoConfig": "own.NewConfig", "AutoModel": "own.New"}}
    model_directory(tmp_path / "m", state(), own)
    report = rmtcli.prune(tmp_path / "m", keep="rank:k=3")
    written = config(tmp_path / "m.pruned")
    assert written["auto_map"] == own["auto_map"]
    assert written["transformers_weights"] == IMPORT
    assert any("the model comes with its own code" in note for note in report.notes)


def test_the_hash_covers_weights_and_configuration(model: Path) -> None:
    first = rmtcli.analyze(model).source
    (model / "tokenizer.json").write_text("changed")
    assert rmtcli.analyze(model).source == first
    (model / "config.json").write_text('{"model_type": "bert"}')
    assert rmtcli.analyze(model).source.sha256 != first.sha256
    assert first.bytes == sum(file.stat().st_size for file in model.glob("model-*"))


def test_a_directory_can_be_written_as_a_file(model: Path) -> None:
    rmtcli.prune(model, model.with_name("a.safetensors"), keep="rank:k=3")
    assert "h.0.fc.1.weight" in load_file(model.with_name("a.safetensors"))


def test_targets_that_a_directory_must_not_replace(model: Path, tmp_path: Path) -> None:
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "thesis.txt").touch()
    before = tree(tmp_path)
    for target, force, message in [
        (model, True, "is an input"),
        (model / "inside", True, "is inside an input"),
        (model / "model.safetensors", True, "is inside an input"),
        (tmp_path, True, "holds an input"),
        (tmp_path / "full", False, "exists already: give force="),
        (tmp_path / "full", True, "holds no model that could be replaced"),
    ]:
        with pytest.raises(UsageError, match=message):
            rmtcli.prune(model, target, keep="rank:k=3", force=force)
    assert tree(tmp_path) == before


def test_an_old_directory_is_replaced_completely_or_stays(
    model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rmtcli.prune(model, tmp_path / "out", keep="rank:k=3")
    (tmp_path / "out" / "old.txt").touch()
    before = tree(tmp_path)
    real = directory.write_safetensors

    def full(*arguments: Any) -> None:
        real(*arguments)
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(directory, "write_safetensors", full)
    with pytest.raises(OSError, match="No space"):
        rmtcli.prune(model, tmp_path / "out", keep="rank:k=2", force=True)
    assert tree(tmp_path) == before
    monkeypatch.undo()
    rmtcli.prune(model, tmp_path / "out", keep="rank:k=2", force=True)
    assert not (tmp_path / "out" / "old.txt").exists()
    assert config(tmp_path / "out")["quantization_config"]["ranks"]["h.0.fc"] == 2
    assert hidden(tmp_path.iterdir()) == []


def hidden(paths: Iterable[Path]) -> list[str]:
    return [path.name for path in paths if path.name.startswith(".rmtcli")]


def test_a_file_cannot_be_written_as_a_directory(tmp_path: Path, samples: Path) -> None:
    source = open_checkpoint(samples / "planted.safetensors")
    with pytest.raises(CheckpointError, match="a directory can be written from a directory only"):
        write_directory(source, tmp_path / "out")


def tied_directory(folder: Path, **settings: object) -> Path:
    """A ``.bin`` as older transformers wrote it: embedding, output head and two layers are tied."""
    words = torch.randn(400, 64)
    tensors = state() | dict.fromkeys([EMBEDDING, COPY, HEAD], words)
    tensors["h.2.fc.weight"] = tensors["h.0.fc.weight"]
    known: dict[str, object] = {"model_type": "t5", "vocab_size": 400}
    return model_directory(folder, tensors, known | settings, container="bin")


def test_a_tied_embedding_is_written_once_and_a_budget_holds_for_the_file(tmp_path: Path) -> None:
    model = tied_directory(tmp_path / "m")
    source = open_checkpoint(model)
    assert source.aliases == dict.fromkeys([COPY, HEAD], EMBEDDING)
    weights_alone = rmtcli.Calibration("none")
    rmtcli.prune(model, tmp_path / "out", budget=Budget("80%", "bytes"), calibration=weights_alone)
    stored = load_file(tmp_path / "out" / "model.safetensors")
    assert EMBEDDING in stored
    assert not {COPY, HEAD} & stored.keys()
    assert sum(x.nbytes for x in stored.values()) <= 0.8 * source.bytes
    again = open_checkpoint(tmp_path / "out")
    assert (again.bytes, again.aliases) == (sum(x.nbytes for x in stored.values()), source.aliases)


def test_shards_and_their_index_name_a_tied_tensor_once(tmp_path: Path) -> None:
    source = open_checkpoint(tied_directory(tmp_path / "m"))
    (tmp_path / "out").mkdir()
    write_directory(source, tmp_path / "out", shard_bytes=60_000)
    index = json.loads((tmp_path / "out" / "model.safetensors.index.json").read_text())
    assert EMBEDDING in index["weight_map"]
    assert not {COPY, HEAD} & index["weight_map"].keys()
    assert index["metadata"]["total_size"] == source.bytes
    again = open_checkpoint(tmp_path / "out")
    assert (again.infos, again.aliases) == (source.infos, source.aliases)


def test_a_tie_that_no_class_restores_is_stored_under_both_names(tmp_path: Path) -> None:
    """Without its weights, transformers would start the layer at random."""
    model = tied_directory(tmp_path / "m", tie_word_embeddings=False)
    source = open_checkpoint(model)
    assert source.aliases == {COPY: EMBEDDING}
    (tmp_path / "out").mkdir()
    write_directory(source, tmp_path / "out")
    stored = load_file(tmp_path / "out" / "model.safetensors")
    assert source.infos.keys() - stored.keys() == {COPY}
    assert source.bytes == sum(x.nbytes for x in stored.values())
