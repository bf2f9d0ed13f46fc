"""Siblings, which share one right factor: recognised, written, read, refused."""

from __future__ import annotations

import json
from itertools import product
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

import rmtcli
from rmtcli.checkpoint import Checkpoint, open_checkpoint
from rmtcli.errors import LayerError, RmtcliError, UsageError
from rmtcli.layers import WHOLE
from rmtcli.layouts import Factored
from rmtcli.planning import Budget, Goal, Plan, allocation_of
from rmtcli.report.base import Report
from rmtcli.report.notes import NO_SIBLINGS
from tests.conftest import DIGITS, Run
from tests.running.test_refine import Branches, branches

FACTORY = "tests.running.test_refine:Branches"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A network ``a.pt`` in which ``q`` and ``k`` read the same input, with data ``d.npz``."""
    path = tmp_path_factory.mktemp("siblings")
    branches(path)
    return path


def shared(folder: Path, output: Path | None = None, **options: Any) -> Report:
    """The network with half of its parameters, ``q`` and ``k`` sharing."""
    given = {"budget": Budget("50%"), "share_inputs": True, "dry_run": output is None}
    evaluation = rmtcli.Evaluation(folder / "d.npz", model=FACTORY)
    return rmtcli.prune(folder / "a.pt", output, evaluation=evaluation, **given | options)


@pytest.mark.parametrize("ending", ["pt", "safetensors"])
def test_the_factor_is_stored_once_and_read_under_both_names(
    folder: Path, tmp_path: Path, ending: str
) -> None:
    path = tmp_path / f"b.{ending}"
    report = shared(folder, path)
    plans = {plan.layer.module: plan for plan in report.layers}
    assert plans["q"].rank == plans["k"].rank
    assert {name for name, plan in plans.items() if plan.group} == {"q", "k"}
    file = open_checkpoint(path)
    assert file.manifest is not None
    assert file.manifest.shared == {"k": "q"}
    assert file.raw("k.0.weight").data.tobytes() == file.raw("q.0.weight").data.tobytes()
    # The report counts the values that the file holds.
    weights = sum(plan.size for plan in report.pruned)
    left = sum(plan.layer.size for plan in report.layers if plan.untouched is not None)
    flat = sum(info.size for info in file.infos.values() if len(info.shape) == 1)
    assert file.parameters == report.parameters[1] == weights + left + flat
    assert file.bytes == 4 * file.parameters
    assert plans["k"].size == plans["k"].rank * 48
    if ending == "pt":
        state = torch.load(path, weights_only=True)
        assert state["k.0.weight"].data_ptr() == state["q.0.weight"].data_ptr()
    else:
        assert "k.0.weight" not in load_file(path)
    small = rmtcli.load(Branches(), path)
    assert small.q[0] is small.k[0]
    assert sum(parameter.numel() for parameter in small.parameters()) == file.parameters


def test_shared_factors_give_the_same_network_in_every_format(folder: Path, tmp_path: Path) -> None:
    report = shared(folder, tmp_path / "b.pt")
    shared(folder, tmp_path / "b.safetensors")
    assert report.comparison is not None
    x = torch.from_numpy(np.load(folder / "d.npz")["inputs"])
    results = []
    for name in ("b.pt", "b.safetensors"):
        dense = tmp_path / f"dense.{name}"
        rmtcli.densify(tmp_path / name, dense)
        for path in (tmp_path / name, dense):
            with torch.no_grad():
                results.append(rmtcli.load(Branches(), path).eval()(x))
    for outputs in results[1:]:
        torch.testing.assert_close(outputs, results[0], rtol=0, atol=1e-5 * float(results[0].max()))
    assert report.comparison.after.outputs is not None
    np.testing.assert_allclose(results[0], report.comparison.after.outputs, atol=1e-5)
    evaluation = rmtcli.Evaluation(folder / "d.npz", model=FACTORY)
    read = rmtcli.evaluate(tmp_path / "b.safetensors", evaluation=evaluation)
    assert read.comparison is not None
    assert read.comparison.after.accuracy == report.comparison.after.accuracy


def test_a_file_with_shared_factors_is_pruned_again_in_another_format(
    folder: Path, tmp_path: Path
) -> None:
    """Factors stay shared if only another layer is pruned."""
    only = rmtcli.Selection(include=["q.weight", "k.weight"])
    shared(folder, tmp_path / "b.safetensors", selection=only, budget=Budget("80%"))
    stem, twice = (rmtcli.Selection(include=[name]) for name in ("stem.weight", "twice.weight"))
    for first, second, selection, saved in (
        ("b.safetensors", "c.pt", twice, 48 * 48 - 9 * 96),
        ("c.pt", "d.safetensors", stem, 48 * 40 - 9 * 88),
    ):
        paths = tmp_path / first, tmp_path / second
        report = rmtcli.prune(*paths, keep="rank:k=9", selection=selection)
        assert report.output is not None
        assert report.output.parameters == report.source.parameters - saved
    assert "k.0.weight" not in load_file(tmp_path / "d.safetensors")
    state = torch.load(tmp_path / "c.pt", weights_only=True)
    assert state["k.0.weight"].data_ptr() == state["q.0.weight"].data_ptr()


def test_healing_trains_the_shared_factor_once(folder: Path, tmp_path: Path) -> None:
    options = {"calibration": rmtcli.Calibration(heal=4), "budget": Budget("30%")}
    report = shared(folder, tmp_path / "b.safetensors", **options)
    plain = shared(folder, tmp_path / "c.safetensors", budget=Budget("30%"))
    assert not [note for note in report.notes if "heal" in note]
    assert report.comparison is not None
    assert plain.comparison is not None
    assert report.comparison.divergence < plain.comparison.divergence
    small = rmtcli.load(Branches(), tmp_path / "b.safetensors")
    assert small.q[0] is small.k[0]
    assert not torch.equal(
        small.q[0].weight, rmtcli.load(Branches(), tmp_path / "c.safetensors").q[0].weight
    )
    # The loaded network has the healed outputs.
    x = torch.from_numpy(np.load(folder / "d.npz")["inputs"])
    with torch.no_grad():
        np.testing.assert_allclose(small(x), report.comparison.after.outputs, atol=1e-5)


def test_siblings_are_recognised_from_a_file_of_statistics(folder: Path, tmp_path: Path) -> None:
    stats = tmp_path / "s.safetensors"
    for name in ("b", "c"):
        calibration = rmtcli.Calibration(folder / "d.npz", stats=stats)
        shared(folder, tmp_path / f"{name}.safetensors", calibration=calibration)
    assert (tmp_path / "b.safetensors").read_bytes() == (tmp_path / "c.safetensors").read_bytes()


def test_a_plan_keeps_the_groups(folder: Path, tmp_path: Path) -> None:
    report = shared(folder, tmp_path / "b.safetensors")
    assert report.plan is not None
    (tmp_path / "p.json").write_text(report.plan.to_json())
    assert Plan.read(tmp_path / "p.json") == report.plan
    assert report.plan.groups == {"q.weight": "q.weight", "k.weight": "q.weight"}
    again = rmtcli.prune(
        folder / "a.pt",
        tmp_path / "c.safetensors",
        plan=tmp_path / "p.json",
        evaluation=rmtcli.Evaluation(model=FACTORY),
    )
    assert again.plan is not None
    assert again.plan.layers == report.plan.layers
    a, b = (load_file(tmp_path / f"{name}.safetensors") for name in "bc")
    assert a.keys() == b.keys()
    assert all(a[name].equal(b[name]) for name in a)


def _ranks(change: dict[str, Any]) -> Any:
    def edit(layers: dict[str, dict[str, Any]]) -> None:
        for name, fields in change.items():
            layers[f"{name}.weight"].update(fields)

    return edit


PLANS: dict[str, tuple[dict[str, Any], str]] = {
    "ranks": ({"k": {"rank": 3}}, "all of the group 'q.weight' need one rank and as many"),
    "other input": (
        {"q": {"group": "x", "rank": 9}, "twice": {"group": "x", "rank": 9}},
        "cannot share its right factor with 'q.weight'",
    ),
    "too large": ({"q": {"rank": 32}, "k": {"rank": 32}}, "cannot have rank 32: it must be from"),
}


@pytest.mark.parametrize("name", PLANS)
def test_a_plan_is_refused_if_its_groups_cannot_share(
    folder: Path, tmp_path: Path, name: str
) -> None:
    change, line = PLANS[name]
    plan = shared(folder).plan
    assert plan is not None
    values = json.loads(plan.to_json())
    _ranks(change)({layer["name"]: layer for layer in values["layers"]})
    (tmp_path / "p.json").write_text(json.dumps(values))
    with pytest.raises(LayerError, match=line):
        rmtcli.prune(
            folder / "a.pt",
            plan=tmp_path / "p.json",
            evaluation=rmtcli.Evaluation(model=FACTORY),
            dry_run=True,
        )


def test_a_group_of_one_layer_shares_nothing(folder: Path, tmp_path: Path) -> None:
    plan = shared(folder).plan
    assert plan is not None
    values = json.loads(plan.to_json())
    _ranks({"q": {"rank": None}})({layer["name"]: layer for layer in values["layers"]})
    (tmp_path / "p.json").write_text(json.dumps(values))
    report = rmtcli.prune(
        folder / "a.pt",
        plan=tmp_path / "p.json",
        evaluation=rmtcli.Evaluation(model=FACTORY),
        dry_run=True,
    )
    assert {p.layer.module: (p.rank, p.group) for p in report.layers}["q"] == (48, None)
    assert {p.layer.module: p.group for p in report.layers}["k"] is None


def test_without_siblings_nothing_changes_but_a_note(tmp_path: Path) -> None:
    evaluation = rmtcli.Evaluation(DIGITS / "digits.npz")
    options: dict[str, Any] = {"budget": Budget("20%"), "evaluation": evaluation}
    network = DIGITS / "digits.pt"
    with_it = rmtcli.prune(network, tmp_path / "a.safetensors", share_inputs=True, **options)
    without = rmtcli.prune(network, tmp_path / "b.safetensors", **options)
    assert NO_SIBLINGS in with_it.notes
    assert NO_SIBLINGS not in without.notes
    assert (tmp_path / "a.safetensors").read_bytes() == (tmp_path / "b.safetensors").read_bytes()


def test_factors_are_shared_under_a_limit_and_on_a_curve(folder: Path) -> None:
    guarded = shared(folder, budget=None, max_drop=3.0)
    assert {plan.group for plan in guarded.pruned} >= {"q.weight"}
    points = rmtcli.curve(
        folder / "a.pt",
        sizes=["50%", "30%"],
        share_inputs=True,
        evaluation=rmtcli.Evaluation(folder / "d.npz", model=FACTORY),
    ).curve
    assert points[0].ranks == {plan.layer.name: plan.rank for plan in shared(folder).pruned}
    assert points[0].parameters == shared(folder).parameters[1]


def test_shared_ranks_are_the_best_possible() -> None:
    """Against brute force; siblings narrow enough that a rank may exceed their outputs."""
    rng = np.random.default_rng(0)

    def fitted(name: str, out: int, inputs: int, losses: np.ndarray, group: str | None) -> Any:
        layer = SimpleNamespace(
            name=name, shape=(out, inputs), size=out * inputs, copies=1, head=False, view=WHOLE
        )
        return SimpleNamespace(
            layer=layer, approximation=SimpleNamespace(losses=losses), group=group, spikes=2
        )

    together = np.sort(rng.exponential(size=10))[::-1]
    alone = np.sort(rng.exponential(size=8))[::-1]
    layers = [
        fitted("q", 12, 10, together, "q"),
        fitted("o", 8, 9, alone, None),
        fitted("k", 3, 10, together, "q"),
    ]
    checkpoint: Any = SimpleNamespace(parameters=1000)
    goal = Goal("auto", Budget("50%"), None)
    allocation = allocation_of(checkpoint, layers, None, goal, Factored())
    step, steps = (15 + 10, 8 + 9), (range(1, 6), range(1, 5))
    for size in range(allocation.least, 1000, 7):
        ranks = allocation.ranks(size)
        assert ranks["q"] == ranks["k"]
        best = min(
            together[a or 10 :].sum() + alone[b or 8 :].sum()
            for a, b in product((*steps[0], None), (*steps[1], None))
            if 1000 - 150 - 72 + (step[0] * a if a else 150) + (step[1] * b if b else 72) <= size
        )
        a, b = (rank if isinstance(rank, int) else None for rank in (ranks["q"], ranks["o"]))
        cost = 1000 - 222 + (step[0] * a if a else 150) + (step[1] * b if b else 72)
        assert cost <= size
        # Within one step of the optimum, but for the jump to dense.
        loss = together[a or 10 :].sum() + alone[b or 8 :].sum()
        assert loss <= best + max(together[0], alone[0]) + 1e-12


USAGE: dict[str, tuple[dict[str, Any], str]] = {
    "rule": ({"budget": None}, "share_inputs= divides a budget: give budget= or max_drop="),
    "macs": ({"budget": Budget("50%", "macs")}, "share_inputs= saves no multiply-adds"),
    "sequential": (
        {"calibration": rmtcli.Calibration(sequential=True)},
        r"share_inputs= and Calibration\(sequential=True\) exclude each other",
    ),
    "dense": ({"layout": "dense"}, 'share_inputs= and layout="dense" exclude each other'),
    "data": (
        {"evaluation": None},
        "share_inputs= has to see which layers read the same input: give inputs with calibration=",
    ),
}


@pytest.mark.parametrize("name", USAGE)
def test_options_that_exclude_sharing_are_refused(folder: Path, name: str) -> None:
    options, line = USAGE[name]
    given = {"evaluation": rmtcli.Evaluation(folder / "d.npz", model=FACTORY)} | options
    with pytest.raises(UsageError, match=line) as error:
        rmtcli.prune(
            folder / "a.pt",
            **{"budget": Budget("50%"), "share_inputs": True, "dry_run": True} | given,
        )
    assert "\n" not in str(error.value)


def test_share_inputs_cannot_be_given_with_a_plan(folder: Path) -> None:
    plan = shared(folder).plan
    with pytest.raises(UsageError, match="a plan sets the ranks"):
        rmtcli.prune(folder / "a.pt", plan=plan, share_inputs=True)


def test_the_command_reports_which_layers_share(folder: Path, tmp_path: Path, rmtcli: Run) -> None:
    result = rmtcli(
        *("prune", folder / "a.pt", "-o", tmp_path / "b.safetensors", "--budget", "50%"),
        *("--data", folder / "d.npz", "--model", FACTORY, "--share-inputs"),
    )
    assert result.returncode == 0, result.stderr
    assert "shares the first factor with" in " ".join(result.stdout.split())
    info = rmtcli("info", tmp_path / "b.safetensors")
    assert "shares the first factor with q" in " ".join(info.stdout.split())
    values = json.loads(rmtcli("info", tmp_path / "b.safetensors", "--json").stdout)
    assert values["manifest"]["shared"] == {"k": "q"}


def test_factors_that_someone_separated_are_not_shared(folder: Path, tmp_path: Path) -> None:
    """The tensors in the file decide, not the record."""
    shared(folder, tmp_path / "b.pt")
    state = torch.load(tmp_path / "b.pt", weights_only=True)
    state["k.0.weight"] = 2 * state["k.0.weight"]
    torch.save(state, tmp_path / "c.pt")
    file = open_checkpoint(tmp_path / "c.pt")
    assert file.manifest is not None
    assert file.manifest.shared == {}
    assert "k.0.weight" in file.distinct
    small = rmtcli.load(Branches(), tmp_path / "c.pt")
    torch.testing.assert_close(small.k[0].weight, 2 * small.q[0].weight)
    rmtcli.densify(tmp_path / "c.pt", tmp_path / "dense.safetensors")
    dense = rmtcli.load(Branches(), tmp_path / "dense.safetensors")
    torch.testing.assert_close(dense.k.weight, small.k.weight)


@pytest.mark.parametrize("record", [{"k": 3}, {"k": None}, ["k"]])
def test_an_invalid_record_is_ignored(folder: Path, tmp_path: Path, record: Any) -> None:
    """A manifest is not trusted: the file still opens."""
    from safetensors.torch import save_file

    file = open_with(folder, tmp_path)
    assert file.manifest is not None
    values = json.loads(file.manifest.to_json()) | {"shared": record}
    save_file(
        load_file(tmp_path / "b.safetensors"),
        tmp_path / "c.safetensors",
        {"rmtcli": json.dumps(values)},
    )
    assert open_checkpoint(tmp_path / "c.safetensors").manifest is None
    with pytest.raises(RmtcliError):
        rmtcli.load(Branches(), tmp_path / "c.safetensors")


def open_with(folder: Path, tmp_path: Path) -> Checkpoint:
    """A file with shared factors."""
    shared(folder, tmp_path / "b.safetensors")
    return open_checkpoint(tmp_path / "b.safetensors")
