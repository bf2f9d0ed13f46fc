"""transformers opens directories in few bits, and saves them as they were stored."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch

transformers = pytest.importorskip("transformers")

import rmtcli  # noqa: E402
import rmtcli.integrations.transformers  # noqa: E402
from rmtcli.checkpoint import open_checkpoint  # noqa: E402
from rmtcli.integrations import rmtcli_loading  # noqa: E402
from rmtcli.layers import Selection  # noqa: E402
from rmtcli.pipeline import request  # noqa: E402
from rmtcli.planning import Budget  # noqa: E402
from tests.integrations.factored import CASES, Case, load, logits, tokenizer  # noqa: E402

FIVE = rmtcli_loading.get_model_conversion_mapping is not None
needs_five = pytest.mark.skipif(not FIVE, reason="transformers 4 opens no weights in few bits")


def few(case: Case, folder: Path, bits: int = 4) -> Path:
    """A directory with dense and pivoted layers in few bits."""
    case.model().save_pretrained(folder / "dense")
    chosen = Selection(min_side=0, exclude=["*.0.*"])
    options = {"keep": "rank:k=5", "layout": "pivoted", "selection": chosen}
    rmtcli.prune(folder / "dense", folder / "few", bits=bits, **options)
    return folder / "few"


def packed(directory: Path) -> set[str]:
    checkpoint = open_checkpoint(directory)
    return {name for name in checkpoint.infos if checkpoint.packed(name) is not None}


@needs_five
@pytest.mark.parametrize("name", ["bert-head", "gpt2", "vit", "mixtral"])
def test_the_weights_are_those_that_the_bits_stand_for(name: str, tmp_path: Path) -> None:
    """Also where transformers renames modules, ties a head, or would join experts."""
    case = CASES[name]
    directory = few(case, tmp_path)
    rmtcli.densify(directory, tmp_path / "whole")
    wanted = logits(load(tmp_path / "whole", case), case)
    model = load(directory, case)
    assert (logits(model, case) - wanted).abs().max() <= 1e-5 * wanted.abs().max()
    model.save_pretrained(tmp_path / "again")
    assert packed(tmp_path / "again") == packed(directory)
    assert torch.equal(logits(load(tmp_path / "again", case), case), logits(model, case))


@needs_five
def test_half_precision_and_a_device_map(tmp_path: Path) -> None:
    """Weights are rounded to the model's type once: scales are read as they are stored."""
    case, half = CASES["bert-head"], torch.bfloat16
    directory = few(case, tmp_path, 8)
    model = load(directory, case, dtype=half)
    assert torch.equal(logits(model, case), logits(load(directory, case).to(half), case))
    model.save_pretrained(tmp_path / "again")
    assert packed(tmp_path / "again") == packed(directory)
    assert torch.equal(logits(load(tmp_path / "again", case), case), logits(model, case))
    pytest.importorskip("accelerate")
    spread = load(directory, case, device_map="auto", dtype=half)
    assert torch.equal(logits(spread, case), logits(model, case))


@needs_five
def test_weights_that_changed_are_saved_whole(tmp_path: Path) -> None:
    case = CASES["bert"]
    directory = few(case, tmp_path)
    model = load(directory, case)
    name = "encoder.layer.0.output.dense.weight"
    with torch.no_grad():
        model.get_parameter(name).mul_(1.01)
    with pytest.warns(UserWarning, match="1 weights are no longer those that were stored in few"):
        model.save_pretrained(tmp_path / "again")
    assert packed(directory) - packed(tmp_path / "again") == {name}
    assert torch.equal(logits(load(tmp_path / "again", case), case), logits(model, case))
    dense = load(directory, case)
    dense.dequantize()
    dense.save_pretrained(tmp_path / "dense-again")
    config = json.loads((tmp_path / "dense-again" / "config.json").read_text())
    assert "quantization_config" not in config
    assert not packed(tmp_path / "dense-again")


def test_older_transformers_refuse_few_bits_in_a_sentence(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    case = CASES["bert"]
    directory = few(case, tmp_path)
    monkeypatch.setattr(rmtcli_loading, "get_model_conversion_mapping", None)
    with pytest.raises(ValueError, match="need transformers 5: update transformers, or run 'rmtcl"):
        load(directory, case)
    monkeypatch.setattr(request, "version", lambda _: "4.57.6")
    budget, none = Budget("50%", "bytes"), rmtcli.Calibration("none")
    report = rmtcli.prune(tmp_path / "dense", budget=budget, calibration=none, dry_run=True)
    assert report.bits is None
    assert "transformers is older than 5 here" in " ".join(report.notes)


@needs_five
def test_sentence_transformers_opens_few_bits(tmp_path: Path) -> None:
    st = pytest.importorskip("sentence_transformers")
    case = CASES["bert"]
    directory = few(case, tmp_path)
    tokenizer(40).save_pretrained(directory)
    rmtcli.densify(directory, tmp_path / "whole")
    texts = ["w1 w2 w3", "w4 w5"]
    made, wanted = (
        torch.from_numpy(st.SentenceTransformer(str(path), device="cpu").encode(texts))
        for path in (directory, tmp_path / "whole")
    )
    assert (made - wanted).abs().max() <= 1e-5 * wanted.abs().max()


@needs_five
@pytest.mark.parametrize(("name", "method"), [("bert", "compressed-tensors"), ("vit", "rmtcli")])
def test_dense_layers_are_compressed_tensors_own_if_they_keep_their_names(
    name: str, method: str, tmp_path: Path
) -> None:
    """A module that transformers renames would not be one of those that its configuration names."""
    case = CASES[name]
    config = type(case.config)(**case.config.to_dict() | {"hidden_size": 64, "vocab_size": 96})
    config.intermediate_size = 128
    replace(case, config=config).model().save_pretrained(tmp_path / "dense")
    rmtcli.prune(tmp_path / "dense", tmp_path / "few", keep="fraction:of=1.0", bits=4)
    written = json.loads((tmp_path / "few" / "config.json").read_text())
    assert written["quantization_config"]["quant_method"] == method
