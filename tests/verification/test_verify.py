"""``rmtcli verify`` accepts intact directories, and reports any fault in one line."""

from __future__ import annotations

import json
import math
import re
import shutil
import signal
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

pytest.importorskip("transformers")

import rmtcli
from rmtcli.cli.main import main
from rmtcli.errors import CheckpointError, EvaluationError, UsageError
from rmtcli.pipeline.verify import difference
from rmtcli.verification import directory as directory_module
from rmtcli.verification.directory import open_factored, write_products
from rmtcli.verification.parent import OpenStep, open_fresh
from tests.conftest import Run, tree
from tests.integrations.factored import CASES, load, write
from tests.integrations.test_few_bits import few, needs_five

pytestmark = pytest.mark.usefixtures("warm")

LAYER, PIVOTED = "encoder.layer.1.intermediate.dense", "encoder.layer.1.output.dense"


@pytest.fixture(scope="module")
def bert(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the directories ``original``, ``factored`` and ``product``."""
    return write(CASES["bert"], tmp_path_factory.mktemp("bert"))[0].parent


@pytest.fixture
def directory(bert: Path, tmp_path: Path) -> Path:
    """A copy of the factored directory, to damage."""
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


def test_an_intact_directory_passes(
    bert: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    """``tests/attacks/test_hostile_folder.py`` runs the command in a process of its own."""
    before = tree(bert)
    words = ["verify", bert / "factored", "--against", bert / "original", "--json"]
    monkeypatch.setattr(sys, "argv", ["rmtcli", *map(str, words)])
    monkeypatch.setattr(signal, "signal", lambda *_: None)  # main's handler would outlive it
    with pytest.raises(SystemExit) as end:
        main()
    stdout, stderr = capfd.readouterr()
    assert not end.value.code, stderr
    assert stderr == ""
    report = json.loads(stdout)
    assert (report["kind"], report["auto"], report["layers"]) == ("BertModel", "AutoModel", 13)
    assert report["difference"] <= report["tolerance"] == 1e-5
    assert report["refused"]
    assert -1 <= report["against"]["cosine"] < 0.99
    assert report["against"]["divergence"] is None
    assert tree(bert) == before


def test_an_older_directory_says_what_would_be_random(directory: Path) -> None:
    reconfigure(directory, lambda config: config.pop("transformers_weights"))
    verification = rmtcli.verify(directory)
    assert not verification.refused
    # The plain model finds neither weight nor bias of a factored layer under their dense names.
    assert verification.random == 20
    assert dict(verification.summary())["with neither"].startswith("20 weights would be random")


@pytest.mark.slow
@pytest.mark.parametrize("name", ["bert-head", "gpt2", "llama", "mixtral", "t5", "vit"])
def test_every_architecture_passes(name: str, tmp_path: Path, rmtcli: Run) -> None:
    factored, product = write(CASES[name], tmp_path)
    result = rmtcli("verify", factored, "--against", product, "--json")
    assert result.returncode == 0, result.stderr
    report = json.loads(result.stdout)
    assert report["difference"] <= 1e-5
    # The product is the same network up to rounding.
    assert report["against"]["largest"] <= 1e-5
    assert report["against"]["cosine"] == pytest.approx(1, abs=1e-9)
    assert report["against"]["divergence"] == pytest.approx(0, abs=1e-9)
    assert report["refused"]


def test_the_products_give_the_dense_directory(bert: Path, tmp_path: Path) -> None:
    write_products(open_factored(bert / "factored"), tmp_path / "dense", frozenset())
    written = load_file(tmp_path / "dense" / "model.safetensors")
    expected = load_file(bert / "product" / "model.safetensors")
    assert written.keys() == expected.keys()
    for name in expected:  # both multiply the same factors in float64 and round once
        torch.testing.assert_close(written[name], expected[name], rtol=1e-6, atol=1e-7)
    config = json.loads((tmp_path / "dense" / "config.json").read_text())
    assert not {"quantization_config", "auto_map"} & config.keys()


def test_shards_are_read_and_written(directory: Path, tmp_path: Path) -> None:
    tensors = load_file(directory / "model.safetensors")
    (directory / "model.safetensors").unlink()
    names, shards = sorted(tensors), {}
    for number in range(2):  # every other tensor: the factors of a layer lie in different shards
        file = f"model-{number}.safetensors"
        part = {name: tensors[name] for name in names[number::2]}
        save_file(part, directory / file, {"format": "pt"})
        shards |= dict.fromkeys(part, file)
    index = directory / "model.safetensors.index.json"
    index.write_text(json.dumps({"metadata": {}, "weight_map": shards}))
    write_products(open_factored(directory), tmp_path / "dense", frozenset())
    dense = tmp_path / "dense"
    written = {k: v for file in dense.glob("*.safetensors") for k, v in load_file(file).items()}
    expected = load_file(directory.parent / "dense" / "model-0.safetensors")
    assert written.keys() >= expected.keys()
    assert written[f"{LAYER}.weight"].shape == (48, 32)
    shards = json.loads((dense / index.name).read_text())["weight_map"]
    assert shards.keys() == written.keys()
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


def restless(directory: Path) -> None:
    reweigh(directory, lambda tensors: tensors.pop(f"{PIVOTED}.rest.weight"))


def misordered(directory: Path) -> None:
    reweigh(directory, lambda tensors: tensors[f"{PIVOTED}.order"].fill_(99))


def disordered(directory: Path) -> None:
    reweigh(directory, lambda tensors: tensors.pop(f"{PIVOTED}.order"))


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
        (restless, f"says that '{PIVOTED}' has rank 5, and the weights hold no such factors"),
        (misordered, f"says that '{PIVOTED}' has rank 5, and the weights hold no such factors"),
        (disordered, f"says that '{PIVOTED}' has rank 5, and the weights hold no such factors"),
        (unreadable, "config.json: damaged: not JSON"),
        (unconfigured, "has no config.json: not a model's directory"),
        (weightless, "has neither model.safetensors nor model.safetensors.index.json"),
        (truncated, "not a whole safetensors file"),
    ],
)
def test_a_damaged_directory_is_refused_before_it_is_opened(
    spoil: Callable[[Path], None], message: str, directory: Path
) -> None:
    spoil(directory)
    with pytest.raises(CheckpointError, match=message) as error:
        rmtcli.verify(directory)
    assert "\n" not in str(error.value)


def test_wrong_arguments_are_refused(bert: Path, tmp_path: Path) -> None:
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
    """Remove a factored layer from config.json: transformers initialises it at random."""
    reconfigure(directory, lambda c: c["quantization_config"]["ranks"].pop(LAYER))  # type: ignore[index]


def unlisted_pooler(directory: Path) -> None:
    """The same outside of numbered layers: the files hold nothing of the module but its factors."""
    reconfigure(directory, lambda c: c["quantization_config"]["ranks"].pop("pooler.dense"))  # type: ignore[index]


def unknown(directory: Path) -> None:
    reconfigure(directory, lambda config: config.update(architectures=["BertForNothing"]))


FAULTS = {
    lost: "'encoder.layer.0.output.LayerNorm.weight' is missing, and drawn at random",
    left_over: "'old.weight' is in the file, and the model has no place for it",
    reshaped: f"'{LAYER}.1.bias' has another shape in the file than in the model",
    unlisted: f"'{LAYER}.bias' (and 1 more) is missing, and drawn at random",
    unlisted_pooler: "'pooler.dense.bias' (and 1 more) is missing, and drawn at random",
    unknown: "it cannot be read: ValueError: no Auto class of transformers",
}


def test_faults_of_an_opened_model_are_reported(bert: Path, tmp_path: Path) -> None:
    """All directories are opened in one process, because each process takes seconds to start."""
    for spoil in FAULTS:
        shutil.copytree(bert / "factored", tmp_path / spoil.__name__)
        spoil(tmp_path / spoil.__name__)
    steps = [OpenStep(tmp_path / spoil.__name__, "trust_remote_code") for spoil in FAULTS]
    steps += [OpenStep(bert / "factored", route) for route in ("trust_remote_code", "import")]
    *damaged, trusted, imported = open_fresh(steps, tmp_path / "exchange")
    for opened, message in zip(damaged, FAULTS.values(), strict=True):
        assert opened.fault is not None
        assert opened.fault.startswith(message)
        assert not opened.absent  # no fault of the dense directory, which could be accepted
    for opened in (trusted, imported):
        assert opened.fault is None
        assert opened.registered
    assert trusted.value is not None
    scale = 1.001
    off = replace(trusted, value=trusted.value * scale)
    # Every entry grows by a thousandth of itself, the largest included.
    assert difference((trusted, off), trusted) == pytest.approx(scale - 1, rel=1e-9)
    assert difference((trusted,), replace(trusted, value=trusted.value[:, 1:])) == math.inf
    assert difference((replace(trusted, value=trusted.value * math.nan),), trusted) == math.inf
    assert difference((trusted,), replace(trusted, value=None)) is None


@needs_five
@pytest.mark.parametrize("name", ["bert-head", "gpt2"])
def test_few_bits_open_alike_by_both_routes(name: str, tmp_path: Path) -> None:
    """Also what a model saves that was opened by one route, and opened by the other."""
    case = CASES[name]
    few(case, tmp_path)
    load(tmp_path / "few", case).save_pretrained(tmp_path / "again")
    outputs = []
    for route in ("trust_remote_code", "import"):  # in a process of its own each
        steps = [OpenStep(tmp_path / directory, route) for directory in ("few", "again")]
        for opened in open_fresh(steps, tmp_path / route):
            assert opened.fault is None
            assert opened.value is not None
            outputs.append(opened.value)
    assert all(np.array_equal(value, outputs[0]) for value in outputs)


@needs_five
def test_dense_layers_in_few_bits_are_verified(tmp_path: Path) -> None:
    """Here compressed-tensors cannot open them, as groups of 64 do not fill the rows."""
    CASES["bert"].model().save_pretrained(tmp_path / "dense")
    rmtcli.prune(tmp_path / "dense", tmp_path / "few", keep="fraction:of=1.0", bits=4)
    result = rmtcli.verify(tmp_path / "few", against=tmp_path / "dense")
    assert result.layers == 0
    assert result.difference is not None
    assert result.difference <= result.tolerance
    assert result.against is not None
    assert 0 < result.against.largest < 1


@needs_five
def test_few_bits_that_compressed_tensors_opens_need_not_be_verified(tmp_path: Path) -> None:
    case = CASES["bert"]
    config = type(case.config)(**case.config.to_dict() | {"hidden_size": 64, "vocab_size": 96})
    config.intermediate_size = 128
    replace(case, config=config).model().save_pretrained(tmp_path / "dense")
    rmtcli.prune(tmp_path / "dense", tmp_path / "few", keep="fraction:of=1.0", bits=4)
    with pytest.raises(CheckpointError, match="by compressed-tensors, and there is nothing to"):
        rmtcli.verify(tmp_path / "few")


@pytest.mark.parametrize("original", [False, pytest.param(True, marks=pytest.mark.slow)])
def test_what_the_dense_directory_lacks_or_has_in_vain_is_no_fault(
    tmp_path: Path, original: bool
) -> None:
    """A class with a head over weights without one, and a buffer that the model no longer has."""
    model = CASES["bert"].model()
    model.save_pretrained(tmp_path / "dense")
    reconfigure(tmp_path / "dense", lambda c: c.update(architectures=["BertForMaskedLM"]))
    reweigh(tmp_path / "dense", lambda t: t.update({"attention.masked_bias": torch.ones(1)}))
    rmtcli.prune(tmp_path / "dense", keep="rank:k=3", output=tmp_path / "factored")
    result = rmtcli.verify(tmp_path / "factored", against=tmp_path / "dense" if original else None)
    assert result.kind == "BertForMaskedLM"
    assert result.difference is not None
    assert result.difference <= result.tolerance <= 1e-3
    head, buffer = result.notes
    assert re.match(r"\d tensors, such as 'cls\.predictions\.", head)
    assert head.endswith("the dense model's files lack as well, and transformers draws at random")
    # The pooler is in the files, and BertForMaskedLM has none.
    assert buffer.startswith("4 tensors, such as 'attention.masked_bias', the dense model does")


@pytest.mark.slow
def test_outputs_that_differ_from_the_product_are_an_error(
    bert: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    original = directory_module._product

    def off(*arguments: Any) -> Any:
        raw = original(*arguments)
        raw.data.view("<f4")[:] *= 1.001
        return raw

    monkeypatch.setattr(directory_module, "_product", off)
    with pytest.raises(EvaluationError, match="outputs differ from those of the product"):
        rmtcli.verify(bert / "factored")


@pytest.mark.slow
def test_deep_models_may_differ_by_more_rounding(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A larger difference is allowed if rounding changes the product itself by as much."""
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
    result = rmtcli.verify(factored)
    assert result.difference is not None
    assert 1e-5 < result.difference <= result.tolerance <= 1e-3


@pytest.mark.slow
def test_a_layer_initialised_at_random_is_an_error(directory: Path) -> None:
    unlisted(directory)
    with pytest.raises(CheckpointError, match=r"opened by trust_remote_code=True, .* at random"):
        rmtcli.verify(directory)


def test_the_command_reports_a_fault_in_one_line_with_exit_code_1(
    directory: Path, rmtcli: Run
) -> None:
    unnamed(directory)
    result = rmtcli("verify", directory)
    assert result.returncode == 1
    assert result.stdout == ""
    assert result.stderr.startswith(f"rmtcli: error: {directory}: config.json does not name")
    assert result.stderr.count("\n") == 1
