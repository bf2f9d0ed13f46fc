"""Encoder-decoders with narrower MLPs and smaller attention heads."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

pytest.importorskip("transformers")

import transformers

import rmtcli
from rmtcli import Calibration, Evaluation
from rmtcli.arrays import FloatArray
from rmtcli.calibration import Moments
from rmtcli.checkpoint import open_checkpoint
from rmtcli.errors import LayerError, UsageError
from rmtcli.evaluation import Harness
from rmtcli.evaluation.network import build
from rmtcli.evaluation.pretrained import Pretrained
from rmtcli.layers import Layer, find_layers
from rmtcli.planning import Plan
from rmtcli.planning.plan_entries import hidden_entry
from rmtcli.running.calibrate import CalibrationInputs, calibrate
from rmtcli.running.heads import find_heads
from tests.evaluation.test_tasks import TASKED, data_for, directory
from tests.integrations.factored import CASES, load, tokenizer

#: Attention modules of the network, each with two pairs; heads, and units of each.
ATTENTIONS, HEADS, UNITS = 6, 4, 8


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """A T5 with gates, its pairs of texts, and the report of making it narrower."""
    folder = tmp_path_factory.mktemp("heads")
    text, config = data_for("t5", folder), CASES["t5"].config.to_dict()
    config = transformers.T5Config(**config | {"feed_forward_proj": "gated-gelu"})
    model = replace(CASES["t5"], config=config).model()
    model.save_pretrained(folder / "t5")
    tokenizer(40).save_pretrained(folder / "t5")
    report = rmtcli.prune(
        folder / "t5",
        folder / "small",
        layout="narrow",
        budget="75%",
        evaluation=Evaluation(text),
        calibration=Calibration(text, clean="none"),
    )
    return folder, text, report


def seen(source: Path, text: Path, task: str) -> tuple[Pretrained, Harness, list[Layer], Any]:
    """A directory's network, with what finds its heads."""
    harness = Evaluation(task=task).resolve(open_checkpoint(source))
    layers = [x for x in find_layers(harness.checkpoint) if isinstance(x, Layer)]
    model = build(harness)
    assert isinstance(model, Pretrained)
    return model, harness, layers, CalibrationInputs.read(Calibration(text), harness)


def test_pairs_of_heads_are_found_by_what_they_do(made: Any) -> None:
    folder, text, _ = made
    model, harness, layers, source = seen(folder / "t5", text, "seq2seq-lm")
    groups = find_heads(model, harness.checkpoint, layers, source)
    assert groups.keys() == {"d_kv"}
    assert len(groups["d_kv"]) == 2 * ATTENTIONS
    for block in groups["d_kv"]:
        kinds = "".join(name.rpartition(".weight")[0][-1] for name in block.layers)
        assert kinds in ("qk", "vo")
        assert len({name[: -len("q.weight")] for name in block.layers}) == 1
        assert (block.heads, block.units, len(block.readers)) == (HEADS, UNITS, kinds == "vo")


class Scaled(transformers.T5ForConditionalGeneration):  # type: ignore[misc, name-defined]
    """A T5 whose products of queries and keys are divided by the root of the size of a head."""

    def __init__(self, config: Any) -> None:
        super().__init__(config)
        for name, module in self.named_modules():
            if name.endswith(".q"):
                module.register_forward_hook(lambda m, x, y: y / config.d_kv**0.5)


def test_heads_whose_size_scales_them_are_left_alone(made: Any) -> None:
    folder, text, _ = made
    model, harness, layers, source = seen(folder / "t5", text, "seq2seq-lm")
    scaled = Scaled(model.network.config).eval()
    scaled.load_state_dict(model.network.state_dict())
    model.network = scaled
    assert find_heads(model, harness.checkpoint, layers, source) == {}


@pytest.mark.parametrize("case", ["bert", "gpt2", "llama"])
def test_other_heads_are_left_alone(case: str, tmp_path: Path) -> None:
    """Their size follows from others, or queries and keys are rotated."""
    if case == "llama":  # as many keys as queries, so that rotation alone is in the way
        config = transformers.LlamaConfig(
            **CASES["llama"].config.to_dict() | {"num_key_value_heads": 4}
        )
        replace(CASES["llama"], config=config).model().save_pretrained(tmp_path / case)
        tokenizer(40).save_pretrained(tmp_path / case)
    source = tmp_path / case if case == "llama" else directory(case, tmp_path)
    model, harness, layers, inputs = seen(source, data_for(case, tmp_path), TASKED[case])
    assert find_heads(model, harness.checkpoint, layers, inputs) == {}


def test_plain_transformers_opens_the_result(made: Any) -> None:
    folder, text, report = made
    config = json.loads((folder / "small" / "config.json").read_text())
    dense = json.loads((folder / "t5" / "config.json").read_text())
    assert config.keys() == dense.keys()
    assert {key for key in config if config[key] != dense[key]} == {"d_ff", "d_kv"}
    assert 1 <= config["d_kv"] < UNITS
    model = load(folder / "small", CASES["t5"])
    assert sum(p.numel() for p in model.parameters()) == report.parameters[1]
    assert report.parameters[1] <= 0.75 * report.parameters[0]
    again = rmtcli.evaluate(folder / "small", evaluation=Evaluation(text)).comparison
    assert again is not None
    measured = report.comparison.after.perplexity
    assert again.after.perplexity == pytest.approx(measured, rel=1e-5)


def weights_of(path: Path, layers: Mapping[str, Layer]) -> dict[str, FloatArray]:
    checkpoint = open_checkpoint(path)
    return {name: checkpoint.array(x.tensor).astype(np.float64) for name, x in layers.items()}


def test_the_predicted_loss_is_that_of_the_layers_outputs(made: Any) -> None:
    """What o gives, and what the queries are to all keys, from the tensors that were written."""
    folder, text, report = made
    _, harness, layers, _ = seen(folder / "t5", text, "seq2seq-lm")
    moments = calibrate(harness, layers, Calibration(text))
    by_name = {layer.name: layer for layer in layers}
    old, new = (weights_of(folder / name, by_name) for name in ("t5", "small"))
    plans = {plan.layer.name: plan for plan in report.layers}

    def share(error: FloatArray, weight: FloatArray, own: Moments) -> float:
        assert own.gradient is not None
        values, vectors = np.linalg.eigh(own.gradient)
        metric = (vectors * np.maximum(values, 1e-4 * values[-1])) @ vectors.T
        loss, whole = (np.sum((metric @ x) * (x @ own.second)) for x in (error, weight))
        return float(loss / whole)

    losses = 0
    for name in (
        name for name in plans if name.endswith(("Attention.q.weight", "Attention.o.weight"))
    ):
        stem, kind = name[: -len("q.weight")], name[-len("q.weight")]
        between = "v" if kind == "o" else "k"
        small, large = new[f"{stem}{between}.weight"], old[f"{stem}{between}.weight"]
        maps = small @ np.linalg.pinv(large)  # the new units from the old ones
        seen_as = new[name] @ maps if kind == "o" else maps.T @ new[name]
        expected = share(old[name] - seen_as, old[name], moments[name])
        # Both come from moments of a network in float32, whose rounding the processor decides.
        assert plans[name].predicted_loss == pytest.approx(expected, rel=3e-5, abs=1e-7)
        losses += 1
    assert losses == 2 * ATTENTIONS


def test_a_plan_of_heads_is_edited_and_applied(made: Any, tmp_path: Path) -> None:
    folder, _, report = made
    (tmp_path / "plan.json").write_text(report.plan.to_json())
    plan = Plan.read(tmp_path / "plan.json")
    assert plan == report.plan
    again = rmtcli.prune(folder / "t5", tmp_path / "again", layout="narrow", plan=plan)
    first, second = (open_checkpoint(x) for x in (folder / "small", tmp_path / "again"))
    assert first.infos == second.infos
    assert all(np.array_equal(first.array(n), second.array(n)) for n in first.infos)
    assert again.parameters == report.parameters
    heads = [x for x in plan.hidden if x.heads]
    assert len(heads) == 2 * ATTENTIONS
    one = replace(plan, hidden=(replace(heads[0], width=UNITS - 1), *heads[1:]))
    with pytest.raises(LayerError, match="all attention heads have one width, that of 'd_kv'"):
        rmtcli.prune(folder / "t5", layout="narrow", plan=one, dry_run=True)
    missing = replace(plan, hidden=(*plan.hidden[:-1], replace(plan.hidden[-1], heads=2)))
    with pytest.raises(LayerError, match="cannot be made narrower"):
        rmtcli.prune(folder / "t5", layout="narrow", plan=missing, dry_run=True)
    entry = {"writers": ["a"], "readers": ["b"], "units": 2, "width": 1, "heads": -1}
    with pytest.raises(UsageError, match="'heads' must be at least 0"):
        hidden_entry(entry, 0, tmp_path / "plan.json")


def test_narrower_heads_get_ranks_too(made: Any, tmp_path: Path) -> None:
    folder, text, report = made
    hidden = [replace(x, width=6) if x.heads else x for x in report.plan.hidden]
    layers = [
        replace(x, rank=16, layout="pivoted") if "Attention" in x.name else x
        for x in report.plan.layers
    ]
    written = rmtcli.prune(
        folder / "t5",
        tmp_path / "small",
        layout="auto",
        plan=replace(report.plan, layout="auto", hidden=tuple(hidden), layers=tuple(layers)),
        evaluation=Evaluation(text),
    )
    both = [p for p in written.layers if p.ranked and p.narrowed is not None]
    assert {p.layer.name[-len("q.weight")] for p in both} == {"q", "k", "v", "o"}
    assert all(0 < p.predicted_loss < 1 for p in both if p.predicted_loss is not None)
    config = json.loads((tmp_path / "small" / "config.json").read_text())
    assert config["d_kv"] == 6
    rmtcli.densify(tmp_path / "small", tmp_path / "dense")
    again = rmtcli.evaluate(tmp_path / "dense", evaluation=Evaluation(text)).comparison
    assert again is not None
    assert written.comparison is not None
    assert again.after.perplexity == pytest.approx(written.comparison.after.perplexity, rel=1e-4)


def test_heads_in_memory_keep_their_size() -> None:
    """Their modules have attributes with it, which only a configuration sets."""
    model, own = CASES["t5"].model(), tokenizer(40)
    texts = [" ".join(f"w{(7 * i + j) % 90}" for j in range(3 + i % 9)) for i in range(40)]
    batch = own(texts, padding=True, return_tensors="pt")
    small = rmtcli.compress(model, layout="narrow", budget="90%", calibration=[batch])
    narrowed = {p.layer.name for p in small.report.layers if p.narrowed is not None}
    assert narrowed
    assert not any("Attention" in name for name in narrowed)
    inputs = CASES["t5"].inputs()
    with torch.no_grad():
        assert small(**inputs).logits.isfinite().all()
