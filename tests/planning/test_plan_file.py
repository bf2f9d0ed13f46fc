"""Plans: written, edited, applied, and refused for other weights."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.torch import load_file, save_file

import rmtcli
from rmtcli.errors import LayerError, RmtcliError, UsageError
from rmtcli.keep import Untouched
from rmtcli.planning import Budget, Plan
from rmtcli.quantization import Grid
from tests.conftest import DIGITS, SAMPLES, Run, tree

DEEP, MNIST = DIGITS / "digits.pt", DIGITS / "digits.npz"
MLP = SAMPLES / "mnist_mlp.safetensors"


@pytest.fixture(scope="module")
def plan() -> Plan:
    made = rmtcli.prune(MLP, dry_run=True).plan
    assert made is not None
    return made


def edited(plan: Plan, change: Any, path: Path) -> Path:
    """The plan with one change, in a file."""
    values = json.loads(plan.to_json())
    change(values)
    path.write_text(json.dumps(values))
    return path


def test_a_plan_is_read_as_it_was_written(plan: Plan, tmp_path: Path) -> None:
    (tmp_path / "p.json").write_text(plan.to_json())
    assert Plan.read(tmp_path / "p.json") == plan
    assert plan.ranks == {"fc1.weight": 56}
    # One line per layer, so that two plans can be compared line by line.
    assert sum('"name": ' in line for line in plan.to_json().splitlines()) == len(plan.layers)


@pytest.mark.parametrize(
    "options",
    [
        {"keep": "edge"},
        {"budget": Budget("10%"), "evaluation": rmtcli.Evaluation(MNIST)},
        {"budget": Budget("10%"), "calibration": rmtcli.Calibration(MNIST, "one-sided", 100)},
        {"calibration": rmtcli.Calibration(MNIST, sequential=True, heal=1)},
        {"keep": "fraction:of=1", "bits": 4, "calibration": rmtcli.Calibration(MNIST)},
        {"budget": Budget("2%", "bytes"), "evaluation": rmtcli.Evaluation(MNIST)},
        {"budget": Budget("2%", "bytes"), "evaluation": rmtcli.Evaluation(MNIST), "bits": 6},
    ],
)
def test_applying_a_plan_gives_the_same_bytes(tmp_path: Path, options: dict[str, Any]) -> None:
    first = rmtcli.prune(DEEP, tmp_path / "a.safetensors", **options)
    assert first.plan is not None
    (tmp_path / "p.json").write_text(first.plan.to_json())
    again = rmtcli.prune(DEEP, tmp_path / "b.safetensors", plan=tmp_path / "p.json")
    a, b = (load_file(tmp_path / f"{name}.safetensors") for name in "ab")
    assert a.keys() == b.keys()
    assert all(a[name].equal(b[name]) for name in a)
    assert again.plan is not None
    assert again.plan.layers == first.plan.layers
    assert again.plan.matrices == first.plan.matrices
    assert bool(first.plan.matrices) == (first.bits is not None)
    assert again.plan.made_by != ""


def test_ranks_can_be_edited_and_heads_pruned_by_a_plan(plan: Plan, tmp_path: Path) -> None:
    def change(values: dict[str, Any]) -> None:
        values["layers"][0]["rank"] = 30
        values["layers"][1]["rank"] = 4

    path = edited(plan, change, tmp_path / "p.json")
    report = rmtcli.prune(MLP, plan=path, dry_run=True)
    assert [layer.rank for layer in report.layers] == [30, 4]
    path = edited(plan, lambda v: v["layers"].pop(0), tmp_path / "p.json")
    report = rmtcli.prune(MLP, plan=path, dry_run=True)
    assert [layer.untouched for layer in report.layers] == [Untouched.PLAN] * 2


def test_a_plan_fits_the_weights_in_any_format(tmp_path: Path, plan: Plan) -> None:
    import torch

    torch.save(load_file(MLP), tmp_path / "a.pt")
    assert rmtcli.prune(tmp_path / "a.pt", plan=plan).layers[0].rank == 56


BROKEN: dict[str, tuple[Any, str]] = {
    "other layer": (
        lambda v: v["layers"][0].update(name="fc9.weight"),
        "'fc9.weight' is not there",
    ),
    "no layer": (lambda v: v["layers"][0].update(name="fc1.bias"), "'fc1.bias' is not there"),
    "shape": (lambda v: v["layers"][0].update(shape=[9, 9]), "9×9 in the plan, 1000×784 in the"),
    "flat": (lambda v: v["layers"][0].update(shape=[9]), "'shape' must be two whole numbers"),
    "weights": (
        lambda v: v["layers"][0].update(sha256="0"),
        "holds other weights: make a new plan",
    ),
    "too large": (
        lambda v: v["layers"][0].update(rank=440),
        "cannot have rank 440: it must be from 1 to 439",
    ),
    "zero": (lambda v: v["layers"][0].update(rank=0), "cannot have rank 0"),
    "text": (
        lambda v: v["layers"][0].update(rank="9"),
        "layers[0]: 'rank' must be a whole number or null",
    ),
    "true": (lambda v: v["layers"][0].update(rank=True), "'rank' must be a whole number or null"),
    "twice": (lambda v: v["layers"].append(v["layers"][0]), "layer 'fc1.weight' is there twice"),
    "unknown": (lambda v: v.update(x=1), "'x' is not known"),
    "missing": (lambda v: v.pop("layers"), "'layers' is missing"),
    "matrix": (
        lambda v: v.update(matrices=[{"name": "fc9.weight", "bits": 4, "group": 64}]),
        "the plan's matrix 'fc9.weight' is not there",
    ),
    "bits": (
        lambda v: v.update(matrices=[{"name": "fc1.weight", "bits": 7, "group": 64}]),
        "matrices[0]: 'bits' must be one of 8, 6, 5, 4, 3, 2",
    ),
    "neighbours": (
        lambda v: v.update(matrices=[{"name": "fc1.weight", "bits": 4, "group": 96}]),
        "matrices[0]: 'group' must be a power of two, at least 16",
    ),
    "version": (lambda v: v.update(rmtcli_plan=2), "not a plan of this version"),
    "data": (
        lambda v: v.update(
            calibration={
                "data": "none.npz",
                "stats": None,
                "sha256": "0",
                "metric": "two-sided",
                "batch": 9,
                "sequential": False,
                "heal": 0,
            }
        ),
        "none.npz: no such file: name the plan's calibration data with calibration=",
    ),
}


@pytest.mark.parametrize("name", BROKEN)
def test_a_plan_that_does_not_fit_is_refused_before_any_work(
    plan: Plan, tmp_path: Path, name: str
) -> None:
    change, line = BROKEN[name]
    edited(plan, change, tmp_path / "p.json")
    (tmp_path / "a.safetensors").write_bytes(MLP.read_bytes())
    before = tree(tmp_path)
    with pytest.raises(RmtcliError) as caught:
        rmtcli.prune(tmp_path / "a.safetensors", plan=tmp_path / "p.json")
    assert line in str(caught.value)
    assert "\n" not in str(caught.value)
    assert tree(tmp_path) == before


@pytest.mark.parametrize("text", ["", "[]", "3", "{", "\x00", "[" * 100_000])
def test_a_file_that_is_not_a_plan_is_refused(tmp_path: Path, text: str) -> None:
    (tmp_path / "p.json").write_text(text)
    with pytest.raises(UsageError, match=r"p\.json: not a plan"):
        Plan.read(tmp_path / "p.json")


def test_options_that_a_plan_sets_cannot_be_given_too(plan: Plan, tmp_path: Path) -> None:
    def refused(message: str, kind: type[RmtcliError] = UsageError, **options: Any) -> None:
        with pytest.raises(kind, match=message):
            rmtcli.prune(MLP, plan=plan, dry_run=True, **options)

    refused("a plan sets the ranks", keep="edge")
    refused("a plan sets the ranks", budget=Budget("10%"))
    refused("a plan names its layers", selection=rmtcli.Selection(include=["fc1.weight"]))
    refused("the plan says how to calibrate", calibration=rmtcli.Calibration(MNIST))
    refused("the plan says how to calibrate", calibration=rmtcli.Calibration(heal=3))
    few = plan.in_few_bits({"fc1.weight": Grid(8)})
    with pytest.raises(UsageError, match="the plan sets the bits of each matrix"):
        rmtcli.prune(MLP, plan=few, bits="none", dry_run=True)
    weights = load_file(MLP)
    weights["fc1.weight"][0, 0] += 1
    save_file(weights, tmp_path / "a.safetensors")
    with pytest.raises(LayerError, match="holds other weights"):
        rmtcli.prune(tmp_path / "a.safetensors", plan=plan)


def test_calibration_data_may_move_but_not_change(tmp_path: Path) -> None:
    report = rmtcli.prune(DEEP, calibration=rmtcli.Calibration(MNIST), dry_run=True)
    assert report.plan is not None
    (tmp_path / "moved.npz").write_bytes(MNIST.read_bytes())
    moved = rmtcli.Calibration(tmp_path / "moved.npz")
    assert rmtcli.prune(DEEP, plan=report.plan, calibration=moved, dry_run=True).pruned
    np.savez(tmp_path / "other.npz", inputs=np.ones((3, 196)))
    other = rmtcli.Calibration(tmp_path / "other.npz")
    with pytest.raises(UsageError, match="not the calibration data that the plan was made with"):
        rmtcli.prune(DEEP, plan=report.plan, calibration=other, dry_run=True)


def test_the_command_writes_and_applies_a_plan(tmp_path: Path, rmtcli: Run) -> None:
    (tmp_path / "a.safetensors").write_bytes(MLP.read_bytes())
    first = rmtcli("prune", "a.safetensors", "--dry-run", "--plan", "p.json", cwd=tmp_path)
    assert first.returncode == 0
    assert set(tree(tmp_path)) == {"a.safetensors", "p.json"}
    again = rmtcli("prune", "a.safetensors", "--plan", "p.json", cwd=tmp_path)
    assert "p.json: exists already" in again.stderr
    done = rmtcli("prune", "a.safetensors", "--apply", "p.json", cwd=tmp_path)
    assert done.returncode == 0
    assert "56 of 784" in done.stdout
    same = rmtcli("prune", "a.safetensors", "--apply", "p.json", "-o", "p.json", cwd=tmp_path)
    assert same.returncode == 2
