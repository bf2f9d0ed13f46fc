"""``rmtcli verify``: whole directories pass, and whatever is wrong with one is said in a line."""

from __future__ import annotations

import json
import math
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

pytest.importorskip("transformers")

import rmtcli
from rmtcli.errors import CheckpointError, EvaluationError, UsageError
from rmtcli.pipeline.verify import difference
from rmtcli.verification import directory as directory_module
from rmtcli.verification.directory import open_factored, write_products
from rmtcli.verification.parent import OpenStep, open_fresh
from tests.conftest import Run, tree
from tests.integrations.factored import CASES, write

LAYER = "encoder.layer.1.output.dense"


@pytest.fixture(scope="module")
def bert(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the directories 'original', 'factored' and 'product'."""
    return write(CASES["bert"], tmp_path_factory.mktemp("bert"))[0].parent


@pytest.fixture
def directory(bert: Path, tmp_path: Path) -> Path:
    """A factored directory to spoil."""
    shutil.copytree(bert / "factored", tmp_path / "factored")
    return tmp_path / "factored"


def reweigh(directory: Path, change: Callable[[dict[str, torch.Tensor]], object]) -> None:
    tensors = load_file(directory / "model.safetensors")
    change(tensors)
    save_file(tensors, directory / "model.safetensors", {"format": "pt"})


def reconfigure(directory: Path, change: Callable[[dict[str, object]], object]) -> None:
    config = json.loads((directory / "config.json").read_text())
    change(config)
    (directory / "config.json").write_text(json.dumps(config))


def test_a_whole_directory_passes(bert: Path, rmtcli: Run) -> None:
    before = tree(bert)
    result = rmtcli("verify", bert / "factored", "--against", bert / "original", "--json")
    assert result.returncode == 0, result.stderr
    assert result.stderr == ""
    found = json.loads(result.stdout)
    assert (found["kind"], found["auto"], found["layers"]) == ("BertModel", "AutoModel", 13)
    assert found["difference"] <= found["tolerance"] == 1e-5
    # Both weight and bias of each layer have other names than the plain model looks for.
    assert found["random"] == 26
    assert -1 <= found["against"]["cosine"] < 0.99
    assert found["against"]["divergence"] is None
    assert tree(bert) == before


@pytest.mark.slow
@pytest.mark.parametrize("name", ["bert-head", "gpt2", "llama", "mixtral", "t5", "vit"])
def test_every_architecture_passes(name: str, tmp_path: Path, rmtcli: Run) -> None:
    factored, product = write(CASES[name], tmp_path)
    result = rmtcli("verify", factored, "--against", product, "--json")
    assert result.returncode == 0, result.stderr
    found = json.loads(result.stdout)
    assert found["difference"] <= 1e-5
    # The product is the same network: only rounding is between them.
    assert found["against"]["largest"] <= 1e-5
    assert found["against"]["cosine"] == pytest.approx(1, abs=1e-9)
    assert found["against"]["divergence"] == pytest.approx(0, abs=1e-9)
    assert found["random"] > 0


def test_the_product_is_the_dense_directory(bert: Path, tmp_path: Path) -> None:
    write_products(open_factored(bert / "factored"), tmp_path / "dense", frozenset())
    found = load_file(tmp_path / "dense" / "model.safetensors")
    wanted = load_file(bert / "product" / "model.safetensors")
    assert found.keys() == wanted.keys()
    for name in wanted:  # products of the same factors in float64, each rounded once
        torch.testing.assert_close(found[name], wanted[name], rtol=1e-6, atol=1e-7)
    config = json.loads((tmp_path / "dense" / "config.json").read_text())
    assert not {"quantization_config", "auto_map"} & config.keys()


def test_shards_are_read_and_written(directory: Path, tmp_path: Path) -> None:
    tensors = load_file(directory / "model.safetensors")
    (directory / "model.safetensors").unlink()
    names, places = sorted(tensors), {}
    for number in range(2):  # every other tensor: the factors of a layer lie in different shards
        file = f"model-{number}.safetensors"
        part = {name: tensors[name] for name in names[number::2]}
        save_file(part, directory / file, {"format": "pt"})
        places |= dict.fromkeys(part, file)
    index = directory / "model.safetensors.index.json"
    index.write_text(json.dumps({"metadata": {}, "weight_map": places}))
    write_products(open_factored(directory), tmp_path / "dense", frozenset())
    dense = tmp_path / "dense"
    found = {k: v for file in dense.glob("*.safetensors") for k, v in load_file(file).items()}
    wanted = load_file(directory.parent / "dense" / "model-0.safetensors")
    assert found.keys() >= wanted.keys()
    assert found[f"{LAYER}.weight"].shape == (32, 48)
    places = json.loads((dense / index.name).read_text())["weight_map"]
    assert places.keys() == found.keys()
    (directory / "model-1.safetensors").unlink()
    with pytest.raises(CheckpointError, match=r"the shard 'model-1.safetensors' of .* is missing"):
        open_factored(directory)
    index.write_text(json.dumps({"weight_map": {"a": "../model.safetensors"}}))
    with pytest.raises(CheckpointError, match=r"the shard '\.\./model.safetensors'"):
        open_factored(directory)
    index.write_text("{}")
    with pytest.raises(CheckpointError, match="not an index of weight files"):
        open_factored(directory)


def unnamed(directory: Path) -> None:
    reconfigure(directory, lambda config: config.pop("auto_map"))


def foreign(directory: Path) -> None:
    code = {"AutoConfig": "rmtcli_loading.BertConfig", "AutoModel": "modeling.Mine"}
    reconfigure(directory, lambda config: config.update(auto_map=code))


def elsewhere(directory: Path) -> None:
    code = {"AutoConfig": "somebody/repository--rmtcli_loading.BertConfig"}
    reconfigure(directory, lambda config: config.update(auto_map=code))


def changed(directory: Path) -> None:
    with (directory / "rmtcli_loading.py").open("a") as file:
        file.write("raise SystemExit('executed')\n")


def uncoded(directory: Path) -> None:
    (directory / "rmtcli_loading.py").unlink()


def unmarked(directory: Path) -> None:
    reconfigure(directory, lambda config: config.pop("quantization_config"))


def rankless(directory: Path) -> None:
    reconfigure(
        directory, lambda config: config.update(quantization_config={"quant_method": "rmtcli"})
    )


def other_rank(directory: Path) -> None:
    reconfigure(directory, lambda c: c["quantization_config"]["ranks"].update({LAYER: 6}))  # type: ignore[index]


def factorless(directory: Path) -> None:
    reweigh(directory, lambda tensors: tensors.pop(f"{LAYER}.1.weight"))


def unreadable(directory: Path) -> None:
    (directory / "config.json").write_text("{")


def unconfigured(directory: Path) -> None:
    (directory / "config.json").unlink()


def weightless(directory: Path) -> None:
    (directory / "model.safetensors").unlink()


def truncated(directory: Path) -> None:
    file = directory / "model.safetensors"
    file.write_bytes(file.read_bytes()[:-100])


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (unnamed, "the factored layers would be random"),
        (elsewhere, "does not name rmtcli_loading.py under auto_map"),
        (foreign, r"code of its own \(modeling.Mine\), which rmtcli verify does not execute"),
        (changed, "is not this rmtcli's, and not executed"),
        (uncoded, "rmtcli_loading.py: is missing: copy it from"),
        (unmarked, "config.json names no layers that rmtcli factored"),
        (rankless, "gives no ranks of the factored layers"),
        (other_rank, f"says that '{LAYER}' has rank 6, and the weights hold no such factors"),
        (factorless, f"says that '{LAYER}' has rank 5, and the weights hold no such factors"),
        (unreadable, "config.json: damaged: not JSON"),
        (unconfigured, "has no config.json: not a model's directory"),
        (weightless, "has neither model.safetensors nor model.safetensors.index.json"),
        (truncated, "not a whole safetensors file"),
    ],
)
def test_what_is_wrong_is_said_before_anything_is_opened(
    spoil: Callable[[Path], None], message: str, directory: Path
) -> None:
    spoil(directory)
    with pytest.raises(CheckpointError, match=message) as error:
        rmtcli.verify(directory)
    assert "\n" not in str(error.value)


def test_wrong_usage(bert: Path, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="no such directory"):
        rmtcli.verify(tmp_path / "none")
    with pytest.raises(UsageError, match="is factored itself: name the dense model's directory"):
        rmtcli.verify(bert / "factored", against=bert / "factored")


def lost(directory: Path) -> None:
    reweigh(directory, lambda tensors: tensors.pop("encoder.layer.0.output.LayerNorm.weight"))


def left_over(directory: Path) -> None:
    reweigh(directory, lambda tensors: tensors.update({"old.weight": torch.ones(2, 2)}))


def reshaped(directory: Path) -> None:
    reweigh(directory, lambda tensors: tensors.update({"pooler.1.bias": torch.ones(3)}))
    reweigh(directory, lambda tensors: tensors.pop("pooler.1.bias"))
    reweigh(directory, lambda tensors: tensors.update({f"{LAYER}.1.bias": torch.ones(31)}))


def unlisted(directory: Path) -> None:
    """A layer that is factored in the file and not in config.json: random without a word."""
    reconfigure(directory, lambda c: c["quantization_config"]["ranks"].pop(LAYER))  # type: ignore[index]


def unknown(directory: Path) -> None:
    reconfigure(directory, lambda config: config.update(architectures=["BertForNothing"]))


FAULTS = {
    lost: "'encoder.layer.0.output.LayerNorm.weight' is missing, and drawn at random",
    left_over: "'old.weight' is in the file, and the model has no place for it",
    reshaped: f"'{LAYER}.1.bias' has another shape in the file than in the model",
    unlisted: f"'{LAYER}.bias' (and 1 more) is missing, and drawn at random",
    unknown: "it cannot be read: ValueError: no Auto class of transformers",
}


def test_what_is_wrong_with_the_model_is_said(bert: Path, tmp_path: Path) -> None:
    """All of them in one process, because each takes seconds to start."""
    for spoil in FAULTS:
        shutil.copytree(bert / "factored", tmp_path / spoil.__name__)
        spoil(tmp_path / spoil.__name__)
    steps = [OpenStep(tmp_path / spoil.__name__, "trust_remote_code") for spoil in FAULTS]
    steps += [OpenStep(bert / "factored", route) for route in ("trust_remote_code", "import")]
    *found, trusted, imported = open_fresh(steps, tmp_path / "talk")
    for opened, message in zip(found, FAULTS.values(), strict=True):
        assert opened.fault is not None
        assert opened.fault.startswith(message)
    for opened in (trusted, imported):
        assert opened.fault is None
        assert opened.registered
    assert trusted.value is not None
    scale = 1.001
    off = replace(trusted, value=trusted.value * scale)
    # All entries are larger by a thousandth, the largest by that share of itself.
    assert difference((trusted, off), trusted) == pytest.approx(scale - 1, rel=1e-9)
    assert difference((trusted,), replace(trusted, value=trusted.value[:, 1:])) == math.inf
    assert difference((replace(trusted, value=trusted.value * math.nan),), trusted) == math.inf
    assert difference((trusted,), replace(trusted, value=None)) is None


@pytest.mark.slow
def test_a_difference_is_an_error(bert: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    original = directory_module._product

    def off(*arguments: Any) -> Any:
        raw = original(*arguments)
        raw.data.view("<f4")[:] *= 1.001
        return raw

    monkeypatch.setattr(directory_module, "_product", off)
    with pytest.raises(EvaluationError, match="outputs differ from those of the product"):
        rmtcli.verify(bert / "factored")


@pytest.mark.slow
def test_deep_models_amplify_rounding(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """More than the usual tolerance is allowed where the product itself rounds as much."""
    from transformers import LlamaConfig

    config = LlamaConfig(
        vocab_size=99,
        hidden_size=256,
        intermediate_size=512,
        num_hidden_layers=32,
        num_attention_heads=8,
    )
    monkeypatch.setattr("tests.integrations.factored.RANK", 40)  # lower ranks amplify less
    factored, _ = write(replace(CASES["llama"], config=config), tmp_path)
    found = rmtcli.verify(factored)
    assert found.difference is not None
    assert 1e-5 < found.difference <= found.tolerance <= 1e-3


@pytest.mark.slow
def test_a_random_layer_is_an_error(directory: Path) -> None:
    unlisted(directory)
    with pytest.raises(CheckpointError, match=r"opened by trust_remote_code=True, .* at random"):
        rmtcli.verify(directory)


def test_on_the_command_line_it_is_one_line_and_exit_code_1(directory: Path, rmtcli: Run) -> None:
    unnamed(directory)
    result = rmtcli("verify", directory)
    assert result.returncode == 1
    assert result.stdout == ""
    assert result.stderr.startswith(f"rmtcli: error: {directory}: config.json does not name")
    assert result.stderr.count("\n") == 1
