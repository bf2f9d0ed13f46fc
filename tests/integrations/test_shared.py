"""Directories in which siblings share a right factor, opened by transformers."""

from __future__ import annotations

import copy
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

pytest.importorskip("transformers")

import rmtcli
import rmtcli.integrations.transformers
from rmtcli.checkpoint import open_checkpoint
from rmtcli.checkpoint.huggingface.write import write_directory
from rmtcli.errors import CheckpointError
from rmtcli.planning import Budget
from rmtcli.verification.directory import open_factored
from tests.conftest import Run
from tests.evaluation.test_tasks import TASKED, data_for, directory
from tests.integrations.factored import CASES, load, logits

pytestmark = pytest.mark.usefixtures("warm")

#: Siblings of the last block: attention's, and the gated MLP's or an expert's.
SIBLINGS = {
    "bert": [("attention.self.key", "attention.self.query", "attention.self.value")],
    "llama": [
        ("self_attn.k_proj", "self_attn.q_proj", "self_attn.v_proj"),
        ("mlp.gate_proj", "mlp.up_proj"),
    ],
    "mixtral": [("block_sparse_moe.experts.0.w1", "block_sparse_moe.experts.0.w3")],
}
#: The layout of each directory, and the names of the tensor that siblings share.
LAYOUTS = {"bert": "pivoted", "llama": "factored", "mixtral": "pivoted"}
FIRST = {"factored": "0.weight", "pivoted": "pivot.weight"}


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> dict[str, tuple[Path, rmtcli.Report]]:
    """A folder with the pruned directory ``small``, and its report, for each architecture."""
    results = {}
    for case in SIBLINGS:
        folder = tmp_path_factory.mktemp(case)
        source, data = directory(case, folder), data_for(case, folder)
        report = rmtcli.prune(
            source,
            folder / "small",
            budget=Budget("55%"),
            share_inputs=True,
            layout=LAYOUTS[case],
            selection=rmtcli.Selection(min_side=8),
            evaluation=rmtcli.Evaluation(data, task=TASKED[case]),
            calibration=rmtcli.Calibration(data),
        )
        rmtcli.densify(folder / "small", folder / "dense")
        results[case] = folder, report
    return results


def close(a: torch.Tensor, b: torch.Tensor) -> None:
    torch.testing.assert_close(a, b, rtol=0, atol=1e-5 * float(b.abs().max()))


@pytest.mark.parametrize("case", SIBLINGS)
def test_a_directory_with_siblings_loads_saves_and_equals_its_product(
    case: str, made: dict[str, tuple[Path, rmtcli.Report]]
) -> None:
    folder, report = made[case]
    entry = json.loads((folder / "small/config.json").read_text())["quantization_config"]
    tensors = load_file(folder / "small/model.safetensors")
    leaf = FIRST[LAYOUTS[case]]
    for first, *others in SIBLINGS[case]:
        full = next(name for name in entry["ranks"] if name.endswith(f"1.{first}"))
        stem = full.removesuffix(first)
        assert f"{full}.{leaf}" in tensors
        for other in others:
            assert entry["shared"][stem + other] == full
            assert f"{stem}{other}.{leaf}" not in tensors
            assert entry["ranks"][stem + other] == entry["ranks"][full]
    assert report.output is not None
    assert report.output.parameters == sum(
        tensor.numel() for tensor in tensors.values() if tensor.is_floating_point()
    )
    wanted = logits(load(folder / "dense", CASES[case]), CASES[case])
    model = load(folder / "small", CASES[case])
    assert model.num_parameters() == report.output.parameters
    close(logits(model, CASES[case]), wanted)
    close(logits(copy.deepcopy(model), CASES[case]), wanted)
    model.save_pretrained(folder / "again")
    again = load_file(folder / "again/model.safetensors")
    assert again.keys() == tensors.keys()
    assert all(again[name].equal(tensors[name]) for name in tensors)
    close(logits(load(folder / "again", CASES[case]), CASES[case]), wanted)
    model.dequantize()
    close(logits(model, CASES[case]), wanted)
    model.save_pretrained(folder / "dequantized")
    close(logits(load(folder / "dequantized", CASES[case]), CASES[case]), wanted)


@pytest.mark.parametrize("case", SIBLINGS)
def test_the_written_directory_scores_as_measured_before(
    case: str, made: dict[str, tuple[Path, rmtcli.Report]]
) -> None:
    folder, report = made[case]
    evaluation = rmtcli.Evaluation(data_for(case, folder), task=TASKED[case])
    comparison = rmtcli.evaluate(
        folder / "small", evaluation=evaluation, against=folder / case
    ).comparison
    assert comparison is not None
    assert report.comparison is not None
    if case == "bert":
        assert comparison.cosines is not None
        assert report.comparison.cosines is not None
        mean = float(report.comparison.cosines.mean())
        assert float(comparison.cosines.mean()) == pytest.approx(mean, abs=1e-5)
    else:
        perplexity = report.comparison.after.perplexity
        assert comparison.after.perplexity == pytest.approx(perplexity, rel=1e-4)


@pytest.mark.parametrize("case", ["llama", "bert"])
def test_verify_opens_a_directory_with_siblings_both_ways(
    case: str, made: dict[str, tuple[Path, rmtcli.Report]]
) -> None:
    result = rmtcli.verify(made[case][0] / "small", against=made[case][0] / case)
    assert result.difference is not None
    assert result.difference <= 1e-5


def test_a_plan_may_give_narrow_siblings_a_rank_beyond_their_width(
    tmp_path: Path, made: dict[str, tuple[Path, rmtcli.Report]]
) -> None:
    """Key and value have 16 outputs each; together with the query's 32, ranks up to 21 pay."""
    folder, report = made["llama"]
    assert report.plan is not None
    layers = [
        replace(layer, rank=20)
        if (layer.group or "").endswith("1.self_attn.k_proj.weight")
        else layer
        for layer in report.plan.layers
    ]
    again = rmtcli.prune(
        folder / "llama",
        tmp_path / "small",
        plan=replace(report.plan, layers=tuple(layers)),
        evaluation=rmtcli.Evaluation(task=TASKED["llama"]),
    )
    key = next(p for p in again.pruned if p.layer.module.endswith("1.self_attn.k_proj"))
    assert (key.rank, key.layer.shape, key.relative_error) == (20, (16, 32), 0.0)
    assert again.output is not None
    assert report.output is not None
    assert again.output.parameters == report.output.parameters + (20 - key_rank(report)) * 96
    rmtcli.densify(tmp_path / "small", tmp_path / "dense")
    model = load(tmp_path / "small", CASES["llama"])
    assert model.num_parameters() == again.output.parameters
    wanted = load(tmp_path / "dense", CASES["llama"])
    close(logits(model, CASES["llama"]), logits(wanted, CASES["llama"]))


def key_rank(report: rmtcli.Report) -> int:
    """The rank of the last block's attention."""
    return next(p.rank for p in report.pruned if p.layer.module.endswith("1.self_attn.k_proj"))


def test_siblings_may_be_in_different_shards(
    tmp_path: Path, made: dict[str, tuple[Path, rmtcli.Report]]
) -> None:
    folder, report = made["llama"]
    small = open_checkpoint(folder / "small")
    (tmp_path / "shards").mkdir()
    write_directory(small, tmp_path / "shards", shard_bytes=8_000)
    files = open_factored(tmp_path / "shards").files
    assert len(files) > 3
    assert report.output is not None
    assert open_checkpoint(tmp_path / "shards").parameters == report.output.parameters
    index = json.loads((tmp_path / "shards/model.safetensors.index.json").read_text())
    assert index["metadata"]["total_size"] == 4 * report.output.parameters
    rmtcli.densify(tmp_path / "shards", tmp_path / "dense")
    for name, tensor in load_file(folder / "dense/model.safetensors").items():
        assert tensor.equal(load_file(tmp_path / "dense/model.safetensors")[name])
    close(
        logits(load(tmp_path / "shards", CASES["llama"]), CASES["llama"]),
        logits(load(folder / "dense", CASES["llama"]), CASES["llama"]),
    )
    assert rmtcli.verify(tmp_path / "shards").difference is not None


def test_healing_teaches_siblings_one_factor(tmp_path: Path) -> None:
    source, data = directory("bert", tmp_path), data_for("bert", tmp_path)
    report = rmtcli.prune(
        source,
        tmp_path / "small",
        budget=Budget("75%"),
        share_inputs=True,
        layout="pivoted",
        evaluation=rmtcli.Evaluation(data, task=TASKED["bert"]),
        calibration=rmtcli.Calibration(data, heal=60),
    )
    assert not [note for note in report.notes if "heal" in note]
    evaluation = rmtcli.Evaluation(data, task=TASKED["bert"])
    again = rmtcli.evaluate(tmp_path / "small", evaluation=evaluation, against=source).comparison
    assert again is not None
    assert again.cosines is not None
    assert report.comparison is not None
    assert report.comparison.cosines is not None
    assert float(again.cosines.mean()) == pytest.approx(float(report.comparison.cosines.mean()))


def test_the_first_siblings_map_is_trained_exported_and_cast_once(
    made: dict[str, tuple[Path, rmtcli.Report]],
) -> None:
    model = load(made["llama"][0] / "small", CASES["llama"])
    layer = model.model.layers[1].self_attn
    names = [name for name, _ in model.named_parameters()]
    assert not [name for name in names if "q_proj.0" in name]
    layer.q_proj(torch.ones(1, 32)).sum().backward()
    assert layer.k_proj[0].weight.grad is not None
    assert layer.k_proj[1].weight.grad is None
    assert layer.q_proj.weight.shape == (32, 32)
    inputs = CASES["llama"].inputs()
    exported = torch.export.export(model, (), {**inputs, "use_cache": False}, strict=False)
    assert not [name for name in exported.state_dict if "q_proj.0" in name]
    close(exported.module()(**inputs, use_cache=False).logits, logits(model, CASES["llama"]))
    model.half()
    assert layer.q_proj.right.weight.dtype == torch.float16


@pytest.mark.parametrize(
    ("shared", "line"),
    [
        ({"no.layer": "model.layers.1.self_attn.k_proj"}, "shares factors of layers that have no"),
        ({"model.layers.1.self_attn.q_proj": 3}, "shares factors of layers that have no rank"),
        ([], "shares factors of layers that have no rank"),
        ({}, "hold no such factors"),
    ],
)
def test_a_configuration_that_contradicts_the_weights_is_refused(
    tmp_path: Path,
    made: dict[str, tuple[Path, rmtcli.Report]],
    rmtcli: Run,
    shared: Any,
    line: str,
) -> None:
    source = made["llama"][0] / "small"
    for file in source.iterdir():
        (tmp_path / file.name).write_bytes(file.read_bytes())
    config = json.loads((source / "config.json").read_text())
    config["quantization_config"]["shared"] = shared
    (tmp_path / "config.json").write_text(json.dumps(config))
    # Without the manifest, only the configuration says which layers share a factor.
    from safetensors.torch import save_file

    save_file(load_file(source / "model.safetensors"), tmp_path / "model.safetensors")
    with pytest.raises(CheckpointError, match=line):
        open_factored(tmp_path)
    result = rmtcli("verify", tmp_path)
    assert result.returncode == 1
    assert result.stderr.count("\n") == 1
    assert line in result.stderr


def test_the_loader_refuses_factors_that_cannot_be_shared(
    tmp_path: Path, made: dict[str, tuple[Path, rmtcli.Report]]
) -> None:
    from rmtcli.integrations.rmtcli_loading import RmtcliConfig

    for shared in ({"a": "b"}, {"a": "a"}, {"a": ["b"]}, ["a"]):
        with pytest.raises(ValueError, match="one of the same rank that has one"):
            RmtcliConfig({"a": 3, "b": 4}, shared)  # type: ignore[arg-type]
    assert RmtcliConfig({"a": 3, "b": 3}, {"a": "b"}).to_dict()["shared"] == {"a": "b"}
    assert "shared" not in RmtcliConfig({"a": 3}).to_dict()
