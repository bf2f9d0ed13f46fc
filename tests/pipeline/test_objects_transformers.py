"""Models of transformers in memory give what their directories give."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import transformers
from safetensors.torch import load_file

import rmtcli
import rmtcli.integrations.transformers  # opens factored directories
from rmtcli import Calibration, Evaluation, Selection
from rmtcli.errors import RmtcliError
from rmtcli.quantization import Grid, nearest
from tests.integrations.factored import CASES, WORDS, tokenizer

LINES = [" ".join(np.random.default_rng(i).choice(WORDS, 4 + i % 12)) for i in range(80)]
TASKS = {"bert": "sentence-embedding", "llama": "causal-lm:lines=1"}
#: The first of them cannot be met without the table of tokens.
BUDGETS = {"bert": "40%", "llama": "70%"}


@pytest.fixture(scope="module", params=TASKS)
def name(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture(scope="module")
def directory(name: str, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("objects") / name
    CASES[name].model().save_pretrained(folder)
    tokenizer(40).save_pretrained(folder)
    (folder / "text.txt").write_text("\n".join(LINES))
    return folder


def batches() -> list[Mapping[str, Any]]:
    """The lines in batches, as a program tokenises them."""
    own = tokenizer(40)
    parts = (LINES[i : i + 16] for i in range(0, len(LINES), 16))
    return [own(part, padding=True, return_tensors="pt") for part in parts]


def test_a_model_in_memory_is_compressed_like_its_directory(
    name: str, directory: Path, tmp_path: Path
) -> None:
    model = CASES[name].model()
    before = {key: value.clone() for key, value in model.state_dict().items()}
    small = rmtcli.compress(model, budget=BUDGETS[name], calibration=batches())
    report = rmtcli.prune(
        directory,
        tmp_path / "small",
        budget=BUDGETS[name],
        calibration=Calibration(directory / "text.txt"),
        evaluation=Evaluation(task=TASKS[name]),
    )
    written, own = load_file(tmp_path / "small" / "model.safetensors"), small.state_dict()
    assert own.keys() == written.keys()
    assert all(torch.equal(own[key], value) for key, value in written.items())
    assert small.report.parameters == report.parameters
    mine, theirs = ({p.layer.name: p.rank for p in r.layers} for r in (small.report, report))
    assert mine == theirs
    assert any(plan.layer.view.table for plan in small.report.pruned) is (name == "bert")
    assert any("prunes the tables" in note for note in small.report.notes) is (name == "bert")
    assert all(torch.equal(before[key], value) for key, value in model.state_dict().items())
    rmtcli.save(small, tmp_path / "saved-1.5")
    auto = getattr(transformers, CASES[name].auto)
    inputs = CASES[name].inputs()
    opened = auto.from_pretrained(tmp_path / "saved-1.5")
    torch.testing.assert_close(opened(**inputs)[0], small(**inputs)[0])
    dense = rmtcli.densify(small)
    assert type(dense) is type(model)
    torch.testing.assert_close(dense(**inputs)[0], small(**inputs)[0], atol=1e-4, rtol=1e-4)


def test_a_model_is_measured_on_its_task(name: str) -> None:
    model, data = CASES[name].model(), batches()
    only = Selection(include=["*layer*.0.*"])
    small = rmtcli.compress(model, max_drop=30, data=data, calibration=data, selection=only)
    assert small.report.comparison is not None
    samples = small.report.comparison.samples
    assert samples is not None
    assert len(samples.inputs) == len(LINES)
    assert (small.report.comparison.after.perplexity is not None) == (name == "llama")
    assert small.report.pruned


def test_labels_of_an_encoder_decoder_are_its_targets() -> None:
    model, data = CASES["t5"].model(), batches()
    labels = [{**batch, "labels": batch["input_ids"].roll(1, 0)} for batch in data]
    scored = {}
    for name, given in (("copies", data), ("labels", labels)):
        report = rmtcli.evaluate(model, evaluation=Evaluation(given))
        assert report.comparison is not None
        scored[name] = report.comparison.after.perplexity
    assert scored["copies"] != scored["labels"]
    wrong = [{**batch, "labels": torch.zeros(len(batch["input_ids"]))} for batch in data]
    with pytest.raises(RmtcliError, match="labels of an encoder-decoder must be token numbers"):
        rmtcli.evaluate(model, evaluation=Evaluation(wrong))


def test_without_inputs_token_numbers_are_drawn() -> None:
    one = "encoder.layer.0.attention.self.query.weight"
    model, only = CASES["bert"].model(), Selection(include=[one])
    small = rmtcli.compress(model, budget="99%", selection=only)
    assert small.report.calibrated is not None
    assert small.report.calibrated.samples == 1000
    assert any("random token numbers" in note for note in small.report.notes)
    assert [p.layer.name for p in small.report.pruned] == [one]


@pytest.mark.parametrize("own", [False, True])
def test_hidden_layers_of_a_model_become_narrower(name: str, own: bool, tmp_path: Path) -> None:
    model = CASES[name].model()
    options = {"calibration": batches(), "layout": "narrow", "per_block": own}
    small = rmtcli.compress(model, budget="80%", **options)
    assert (small.config.intermediate_size < model.config.intermediate_size) is not own
    assert any(plan.narrowed for plan in small.report.pruned)
    rmtcli.save(small, tmp_path / "saved-1.5")
    inputs = CASES[name].inputs()
    opened = getattr(transformers, CASES[name].auto).from_pretrained(tmp_path / "saved-1.5")
    torch.testing.assert_close(opened(**inputs)[0], small(**inputs)[0])


def test_wrong_inputs_of_a_model_are_one_line(name: str, directory: Path) -> None:
    model = CASES[name].model()
    cases: list[tuple[object, str]] = [
        (["a text"], "has no tokenizer of its own"),
        (torch.randn(20, 7), "takes dictionaries with 'input_ids'"),
        (directory / "text.txt", "files are read for directories"),
        ({"labels": torch.zeros(3)}, "a dictionary needs 'input_ids'"),
        ({"input_ids": torch.full((4, 5), 500) + torch.arange(4)[:, None]}, "does not take inputs"),
    ]
    for calibration, message in cases:
        with pytest.raises(RmtcliError, match=message):
            rmtcli.compress(model, budget="70%", calibration=calibration)


def test_a_class_without_a_task_needs_one() -> None:
    config = transformers.BertConfig(
        vocab_size=99,
        hidden_size=32,
        num_hidden_layers=1,
        num_attention_heads=2,
        intermediate_size=48,
    )
    model = transformers.BertForMaskedLM(config)
    with pytest.raises(RmtcliError, match="its class does not say what the network is for"):
        rmtcli.compress(model, budget="90%", calibration=batches())


def test_a_sentence_transformer_is_compressed_with_its_tokenizer(tmp_path: Path) -> None:
    sentences = pytest.importorskip("sentence_transformers")
    CASES["bert"].model().save_pretrained(tmp_path / "dense")
    tokenizer(40).save_pretrained(tmp_path / "dense")
    model = sentences.SentenceTransformer(str(tmp_path / "dense"), device="cpu")
    small = rmtcli.compress(
        model, budget="70%", calibration=LINES, score=lambda m: float(m.encode(LINES[:2]).shape[1])
    )
    assert small.report.comparison is not None
    assert small.report.comparison.after.score == 32
    bare = rmtcli.compress(CASES["bert"].model(), budget="70%", calibration=batches())
    own = small[0].auto_model.state_dict()
    assert all(torch.equal(own[key], value) for key, value in bare.state_dict().items())
    rmtcli.save(small, tmp_path / "small")
    opened = sentences.SentenceTransformer(str(tmp_path / "small"), device="cpu")
    vectors = small.encode(LINES)
    rmtcli.save(small, tmp_path / "small.safetensors")
    fresh = sentences.SentenceTransformer(str(tmp_path / "dense"), device="cpu")
    assert rmtcli.load(fresh, tmp_path / "small.safetensors") is fresh
    np.testing.assert_allclose(fresh.encode(LINES), vectors, atol=1e-5)
    np.testing.assert_allclose(opened.encode(LINES), vectors, atol=1e-5)
    np.testing.assert_allclose(rmtcli.densify(small).encode(LINES), vectors, atol=1e-4)
    assert np.abs(model.encode(LINES) - vectors).max() > 1e-3


def test_tables_that_are_no_layers_are_rounded_with_feedback() -> None:
    model = CASES["bert"].model()
    small = rmtcli.compress(model, keep="fraction:of=1", bits=4, calibration=batches())
    before, after = model.state_dict(), small.state_dict()
    to_nearest = {}
    for name in ("word", "position", "token_type"):
        key = f"embeddings.{name}_embeddings.weight"
        weight = before[key].double().numpy()
        rounded = nearest(weight, Grid(4).of(weight.shape)).values
        to_nearest[name] = np.array_equal(rounded.astype(np.float32), after[key].numpy())
    assert to_nearest == {"word": False, "position": False, "token_type": False}
