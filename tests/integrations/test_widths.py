"""Directories in which each hidden layer has a width of its own."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

pytest.importorskip("transformers")

import transformers

import rmtcli
import rmtcli.integrations.transformers
from rmtcli import Calibration, Evaluation, prune
from rmtcli.checkpoint import open_checkpoint
from rmtcli.errors import LayerError, UsageError
from rmtcli.planning import Budget
from tests.evaluation.test_tasks import TASKED, data_for, directory
from tests.integrations.factored import CASES, load, logits

pytestmark = pytest.mark.usefixtures("warm")

#: The layout and the share of the multiply-adds of each case.
MADE = {"bert": ("narrow", "85%"), "llama": ("narrow", "85%"), "gpt2": ("auto", "80%")}


@pytest.fixture(scope="module", params=MADE)
def written(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Any:
    """The case, its dense directory, the narrow one, and the report."""
    case, folder = request.param, tmp_path_factory.mktemp("widths")
    dense, text = directory(case, folder), data_for(case, folder)
    layout, share = MADE[case]
    report = prune(
        dense,
        folder / "small",
        layout=layout,
        per_block=True,
        budget=Budget(share, "macs"),
        evaluation=Evaluation(text, task=TASKED[case]),
        calibration=Calibration(text),
    )
    return case, folder, report


def outputs(path: Path, case: str, **options: Any) -> torch.Tensor:
    """The outputs of a directory that opens without complaint."""
    auto = getattr(transformers, CASES[case].auto)
    model, info = auto.from_pretrained(path, output_loading_info=True, **options)
    assert not any(info[kind] for kind in ("missing_keys", "unexpected_keys", "mismatched_keys"))
    return logits(model.eval(), CASES[case])


def test_each_hidden_layer_has_its_width_in_the_configuration(written: Any) -> None:
    case, folder, report = written
    config = json.loads((folder / "small" / "config.json").read_text())
    assert config["auto_map"]["AutoConfig"].startswith("rmtcli_loading.")
    entry = config["quantization_config"]
    assert entry["version"] == 4
    narrowed = {p.layer.module: p for p in report.layers if p.narrowed is not None}
    assert entry["narrowed"].keys() == narrowed.keys()
    for name, plan in narrowed.items():
        sides = {"from": list(plan.layer.shape), "to": list(plan.shape)}
        assert entry["narrowed"][name] == sides
    writers = [
        plan for plan in report.layers if re.search(r"intermediate|up_proj|c_fc", plan.layer.name)
    ]
    assert len(writers) == 2
    assert writers[0].shape != writers[1].shape
    dense = json.loads((folder / case / "config.json").read_text())
    ours = {"quantization_config", "auto_map", "transformers_weights"}
    assert {key: value for key, value in config.items() if key not in ours} == dense
    words = "each hidden layer has a width of its own"
    assert any(words in note for note in report.notes) == (case != "gpt2")


def test_it_opens_and_gives_what_was_measured(written: Any) -> None:
    case, folder, report = written
    model = load(folder / "small", CASES[case])
    assert sum(p.numel() for p in model.parameters()) == report.parameters[1]
    task = TASKED[case]
    text = folder / "text.txt"
    again = rmtcli.evaluate(
        folder / "small", evaluation=Evaluation(text, task=task), against=folder / case
    ).comparison
    assert again is not None
    assert report.comparison is not None
    if case == "bert":
        cosines = report.comparison.cosines
        np.testing.assert_allclose(again.cosines, cosines, rtol=0, atol=1e-5)
        return
    assert again.after.perplexity == pytest.approx(report.comparison.after.perplexity, rel=1e-4)


def test_what_transformers_saves_again_is_the_same_model(written: Any) -> None:
    case, folder, _ = written
    wanted = outputs(folder / "small", case)
    load(folder / "small", CASES[case]).save_pretrained(folder / "again")
    assert (folder / "again" / "rmtcli_loading.py").exists()
    before, after = (load(folder / name, CASES[case]).state_dict() for name in ("small", "again"))
    assert before.keys() == after.keys()
    assert all(torch.equal(after[key], value) for key, value in before.items())
    # Where a tensor lies in memory can decide how its products are rounded.
    torch.testing.assert_close(outputs(folder / "again", case), wanted)
    first, second = (open_checkpoint(folder / name).manifest for name in ("small", "again"))
    assert first is not None
    assert second is not None
    assert first.shapes == second.shapes != {}
    half = outputs(folder / "small", case, dtype=torch.bfloat16)
    assert (half - wanted).abs().max() < 0.1 * wanted.abs().max()


@pytest.mark.parametrize("source", ["small", "again", "dequantized"])
def test_dense_layers_get_the_widths_of_the_configuration(written: Any, source: str) -> None:
    case, folder, _ = written
    wanted = outputs(folder / "small", case)
    model = load(folder / "small", CASES[case])
    if source == "dequantized":
        model.dequantize().save_pretrained(folder / "wide")
    else:
        model.save_pretrained(folder / "again")
        rmtcli.densify(folder / source, folder / "wide", force=True)
    files = {file.name for file in (folder / "wide").iterdir()}
    assert "rmtcli_loading.py" not in files
    assert "quantization_config" not in (folder / "wide" / "config.json").read_text()
    wide = outputs(folder / "wide", case)
    assert (wide - wanted).abs().max() <= 1e-5 * wanted.abs().max()
    shapes = {name: info.shape for name, info in open_checkpoint(folder / case).infos.items()}
    now = {name: info.shape for name, info in open_checkpoint(folder / "wide").infos.items()}
    assert {name: now[name] for name in shapes} == shapes
    shutil.rmtree(folder / "wide")


def test_verify_compares_it_with_the_dense_product(written: Any) -> None:
    case, folder, report = written
    if case == "llama":
        pytest.skip("two cases cover both orientations, with and without factors")
    result = rmtcli.verify(folder / "small")
    assert result.layers == sum(plan.ranked for plan in report.layers)
    assert result.difference is not None
    assert result.difference < 1e-5
    assert result.refused
    assert any("transformers refuses" in text for _, text in result.summary())


def test_what_describes_it(written: Any) -> None:
    case, folder, report = written
    lines = [text for label, text in rmtcli.info(folder / "small").lines if label == "layer"]
    plan = next(plan for plan in report.layers if plan.narrowed is not None)
    old, new = ("×".join(map(str, shape)) for shape in (plan.layer.shape, plan.shape))
    assert any(f"narrowed from {old} to {new}, which" in line for line in lines)
    missing = rmtcli.diff(folder / case, folder / "small").missing
    assert (plan.layer.name, None) in missing


def test_it_can_be_narrowed_and_rounded_once_more(written: Any) -> None:
    case, folder, first = written
    text = folder / "text.txt"
    report = prune(
        folder / "small",
        folder / "smaller",
        layout="narrow" if case != "gpt2" else "auto",
        per_block=True,
        bits=8,
        budget=Budget("85%", "macs"),
        evaluation=Evaluation(text, task=TASKED[case]),
        calibration=Calibration(text, heal=1),
    )
    assert report.parameters[1] < first.parameters[1]
    small, manifest = (open_checkpoint(folder / name).manifest for name in ("small", "smaller"))
    assert small is not None
    assert manifest is not None
    # The configuration's shapes stay those of the dense network.
    assert {name: list(manifest.narrowed[name]) for name in small.narrowed} == small.narrowed
    narrow = outputs(folder / "smaller", case)
    rmtcli.densify(folder / "smaller", folder / "wider", force=True)
    wide = outputs(folder / "wider", case)
    assert (wide - narrow).abs().max() <= 1e-4 * narrow.abs().max()


def test_a_layout_without_widths_is_refused(tmp_path: Path) -> None:
    source = tmp_path / "net.safetensors"
    save_file({"0.weight": torch.randn(64, 64), "1.weight": torch.randn(64, 64)}, source)
    with pytest.raises(UsageError, match="per_block= gives hidden layers widths of their own"):
        prune(source, per_block=True, budget=Budget("50%"), dry_run=True)


#: Entries of the configuration that are wrong, and the message.
WRONG: dict[str, tuple[Any, str]] = {
    "no object": ([], "'narrowed' under quantization_config"),
    "larger": ({"from": [48, 32], "to": [49, 32]}, "'narrowed' under quantization_config"),
    "one side": ({"from": [48], "to": [40]}, "'narrowed' under quantization_config"),
    "another model": ({"from": [64, 32], "to": [40, 32]}, "is 64x32 in the dense model"),
}


@pytest.mark.parametrize("case", WRONG)
def test_wrong_shapes_are_refused(case: str, tmp_path: Path) -> None:
    entry, message = WRONG[case]
    path = directory("bert", tmp_path)
    config = json.loads((path / "config.json").read_text())
    narrowed = {"encoder.layer.0.intermediate.dense": entry} if entry else [1]
    config["quantization_config"] = {
        "quant_method": "rmtcli",
        "version": 4,
        "ranks": {},
        "narrowed": narrowed,
    }
    (path / "config.json").write_text(json.dumps(config))
    with pytest.raises(ValueError, match=message):
        transformers.AutoModel.from_pretrained(path)


def test_experts_keep_their_widths(tmp_path: Path) -> None:
    source, text = directory("mixtral", tmp_path), data_for("mixtral", tmp_path)
    with pytest.raises(LayerError, match="has no hidden layer that can be made narrower"):
        prune(
            source,
            layout="narrow",
            per_block=True,
            budget=Budget("90%", "macs"),
            evaluation=Evaluation(task=TASKED["mixtral"]),
            calibration=Calibration(text),
            dry_run=True,
        )
