from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from torch import nn

from tests.conftest import DIGITS, SAMPLES, Run, tree

MLP = "sample_models/mnist_mlp.safetensors"
DATA = "sample_models/mnist.npz"


def test_the_main_job(workdir: Path, rmtcli: Run) -> None:
    """The published result: edge rank 56 of 784, 86 % fewer parameters, the same accuracy."""
    result = rmtcli("prune", MLP, "--keep", "auto", "--data", DATA, "--json")
    assert result.returncode == 0, result.stderr
    assert result.stderr == ""
    report = json.loads(result.stdout)
    first, head = report["layers"]
    assert 54 <= first["rank"] <= 58
    assert first["p"] == 784
    assert head["reason"] == "head"
    assert report["parameters"]["before"] == 795_010
    assert 0.85 < 1 - report["parameters"]["ratio"] < 0.87
    accuracy = report["accuracy"]
    assert accuracy["measured"]
    assert accuracy["samples"] == 10_000
    assert abs(accuracy["drop"]) <= 0.1
    assert report["command"] == f"rmtcli prune {MLP} --keep auto --data {DATA} --json"
    assert report["schema_version"] == 1
    # Plain torch, without rmtcli, gives the reported accuracy.
    rank = first["rank"]
    split = nn.Sequential(nn.Linear(784, rank, bias=False), nn.Linear(rank, 1000))
    plain = nn.ModuleDict({"fc1": split, "fc2": nn.Linear(1000, 10)})
    plain.load_state_dict(load_file(report["output"]["path"]))
    with np.load(DATA) as data:
        x = torch.from_numpy(data["inputs"]).float() / 255
        y = torch.from_numpy(data["targets"])
    with torch.no_grad():
        logits = plain["fc2"](torch.relu(plain["fc1"](x)))
    assert 100 * float((logits.argmax(1) == y).float().mean()) == pytest.approx(
        accuracy["after"], abs=0.015
    )


def test_planted_ranks_and_noise_are_recovered(rmtcli: Run) -> None:
    from safetensors import safe_open

    path = SAMPLES / "planted.safetensors"
    with safe_open(path, framework="np") as file:
        truth = json.loads(file.metadata()["truth"])
    report = json.loads(rmtcli("analyze", path, "--json").stdout)
    layers = {layer["name"]: layer for layer in report["layers"]}
    assert len(truth) == 4
    for name, expected in truth.items():
        assert layers[name]["spikes"] == expected["rank"]
        assert layers[name]["rank"] == expected["rank"]
        assert layers[name]["sigma"] == pytest.approx(expected["sigma"], rel=0.01)


def test_densify_gives_the_same_logits(tmp_path: Path, rmtcli: Run) -> None:
    small, dense = tmp_path / "small.pt", tmp_path / "dense.safetensors"
    data = DIGITS / "digits.npz"
    assert rmtcli("prune", DIGITS / "digits.pt", "-o", small).returncode == 0
    assert rmtcli("densify", small, "-o", dense).returncode == 0
    from rmtcli.checkpoint import open_checkpoint
    from rmtcli.evaluation import Evaluation
    from rmtcli.evaluation.network import build

    with np.load(data) as file:
        x = torch.from_numpy(file["inputs"]).float() / 255
    with torch.no_grad():
        a, b = (build(Evaluation().resolve(open_checkpoint(p)))(x) for p in (small, dense))
    torch.testing.assert_close(a, b, rtol=1e-5, atol=1e-5)
    result = rmtcli("evaluate", dense, "--against", small, "--data", data, "--json")
    report = json.loads(result.stdout)
    assert report["accuracy"]["agreement"] == pytest.approx(100, abs=0.02)


def test_prune_keeps_everything_beside_the_weights_of_a_torch_file(
    workdir: Path, rmtcli: Run
) -> None:
    result = rmtcli("prune", "sample_models/mnist_deep.pt", "--json")
    report = json.loads(result.stdout)
    old = torch.load("sample_models/mnist_deep.pt")
    new = torch.load("sample_models/mnist_deep.pruned.pt")
    assert list(new) == list(old)
    assert new["epoch"] == old["epoch"] == 8
    assert new["optimizer_state_dict"] == old["optimizer_state_dict"]
    assert torch.equal(new["model_state_dict"]["fc5.weight"], old["model_state_dict"]["fc5.weight"])
    assert any("optimizer_state_dict" in note for note in report["notes"])
    assert report["accuracy"] == {"measured": False}
    assert any(note.startswith("accuracy was not measured") for note in report["notes"])


def test_a_dry_run_writes_nothing_but_the_report(workdir: Path, rmtcli: Run) -> None:
    before = tree(workdir)
    result = rmtcli("prune", MLP, "--dry-run", "--report", "r.md")
    assert result.returncode == 0
    assert "56 of 784" in result.stdout
    after = tree(workdir)
    assert set(after) - set(before) == {"r.md"}
    assert all(after[name] == data for name, data in before.items())


@pytest.mark.parametrize("ending", [".md", ".json"])
def test_reports_in_files(workdir: Path, rmtcli: Run, ending: str) -> None:
    result = rmtcli("prune", MLP, "--report", f"r{ending}", "--json")
    assert result.returncode == 0
    text = Path(f"r{ending}").read_text()
    if ending == ".json":
        assert text == result.stdout
    else:
        assert "| fc1.weight | 1000×784 |" in text
        assert "`rmtcli prune" in text
        assert "not measured" in text
    again = rmtcli("prune", MLP, "--report", f"r{ending}", "-o", "x.safetensors")
    assert again.returncode == 2
    assert "exists already" in again.stderr
    forced = rmtcli("prune", MLP, "--report", f"r{ending}", "-o", "x.safetensors", "--force")
    assert forced.returncode == 0


@pytest.mark.parametrize("command", ["analyze", "prune", "evaluate"])
def test_with_json_stdout_contains_nothing_else(workdir: Path, rmtcli: Run, command: str) -> None:
    extra = ["--data", DATA] if command == "evaluate" else []
    result = rmtcli(command, MLP, "--json", *extra)
    report = json.loads(result.stdout)
    assert report["action"] == command
    assert result.stderr == ""


def test_piped_output_has_no_colours_and_is_not_truncated(workdir: Path, rmtcli: Run) -> None:
    result = rmtcli("analyze", "sample_models/planted.safetensors", env={"COLUMNS": "40"})
    assert "\x1b" not in result.stdout
    assert "…" not in result.stdout
    assert "too small, output head" in result.stdout
    assert "fewer than 20 singular values are too few to fit a law" in result.stdout
    assert all(line == line.rstrip() for line in result.stdout.splitlines())


def test_methods_lists_every_choice_with_its_options(rmtcli: Run) -> None:
    from rmtcli.edges import EDGES
    from rmtcli.keep import KEEP_RULES

    text = rmtcli("methods").stdout
    listed = json.loads(rmtcli("methods", "--json").stdout)
    for flag, registry in (("--edge", EDGES), ("--keep", KEEP_RULES)):
        assert [item["name"] for item in listed[flag]] == list(registry.choices)
        for item in listed[flag]:
            assert f"\n  {item['name']}" in text
            assert item["summary"] in text
            assert item["reference"] == registry.reference(item["name"])
            assert item["reference"] is None or f"Source: {item['reference']}\n" in text
            names = [option["name"] for option in item["options"]]
            assert names == [o.name for o in registry.options(item["name"])]
            assert all(f"{name}=" in text for name in names)


def test_names_from_a_file_are_escaped_on_the_terminal(workdir: Path, rmtcli: Run) -> None:
    name = "a:fire:\x1b[31m\n[bold]é.weight"
    torch.save({name: torch.randn(64, 64), "z.weight": torch.randn(64, 64)}, "a.pt")
    text = rmtcli("analyze", "a.pt").stdout
    assert "a:fire:\\x1b[31m\\n[bold]é.weight" in text
    assert "\x1b" not in text
    ascii_only = {"PYTHONIOENCODING": "ascii", "PATH": ""}
    report = json.loads(rmtcli("analyze", "a.pt", "--json", env=ascii_only).stdout)
    assert report["layers"][0]["name"] == name


def test_many_skipped_tensors_are_summarized(workdir: Path, rmtcli: Run) -> None:
    tensors = {f"conv{i}.weight": torch.ones(2, 2, 3, 3) for i in range(150)}
    torch.save(tensors | {"fc.weight": torch.randn(64, 64)}, "a.pt")
    result = rmtcli("analyze", "a.pt")
    assert "conv4.weight and 145 more: not two-dimensional" in result.stdout
    assert len(json.loads(rmtcli("analyze", "a.pt", "--json").stdout)["skipped"]) == 150
