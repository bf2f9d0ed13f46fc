"""Refinement: sequential fits and healing."""

from __future__ import annotations

from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import rmtcli
from rmtcli.calibration import Moments, decompose, redirect
from rmtcli.checkpoint import open_checkpoint
from rmtcli.errors import UsageError
from rmtcli.planning import Budget
from rmtcli.report.base import Report
from rmtcli.report.renderers import RENDERERS, Context
from rmtcli.report.summary import summary
from rmtcli.running.sequential import RefitStep, Target, refit
from tests.conftest import DIGITS

DEEP, MNIST = DIGITS / "digits.pt", DIGITS / "digits.npz"
REFINED = {"sequential": True, "heal": 8}


def pairs(rows: int = 600) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """A weight, its layer's inputs, and its inputs after compression, with noise and a shift."""
    rng = np.random.default_rng(0)
    w, x = rng.standard_normal((20, 30)), rng.standard_normal((rows, 30))
    y = x @ (np.eye(30) + 0.05 * rng.standard_normal((30, 30))) + 0.5
    return w, x + 1, y


def fitted(rank: int, *, bias: bool) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Product and shift of the sequential fit, and the inputs and targets that it fits."""
    w, x, y = pairs()
    moments = Moments(len(y), len(y), y.mean(0), y.T @ y / len(y), None)
    fit = redirect(w, moments, mean=x.mean(0), cross=x.T @ y / len(y), bias=bias)
    factors = fit.factors(rank)
    return factors.product, np.zeros(20) if factors.shift is None else factors.shift, y, x @ w.T


@pytest.mark.parametrize("bias", [True, False])
def test_a_sequential_fit_equals_reduced_rank_regression(bias: bool) -> None:
    """Izenman (1975) transcribed: regress, then keep the leading directions of the fit."""
    product, shift, y, target = fitted(6, bias=bias)
    a, b = (y - y.mean(0), target - target.mean(0)) if bias else (y, target)
    full = np.linalg.lstsq(a, b, rcond=None)[0]
    vh = np.linalg.svd(a @ full, full_matrices=False)[2][:6]
    best = np.linalg.norm(a @ full @ vh.T @ vh - b)
    # A ridge of 1e-4 costs at most that share of the part that the weight explains.
    assert np.linalg.norm(y @ product.T + shift - target) <= best * (1 + 1e-3)


def test_a_sequential_fit_beats_one_that_ignores_the_change_of_the_inputs() -> None:
    w, x, y = pairs()
    moments = Moments(len(x), len(x), x.mean(0), x.T @ x / len(x), None)
    blind = decompose(w, moments, bias=True, gradients=False).factors(6)
    product, shift, _, target = fitted(6, bias=True)
    error = np.linalg.norm(y @ blind.product.T + blind.shift - target)
    assert np.linalg.norm(y @ product.T + shift - target) < 0.8 * error


def test_a_sequential_fit_on_unchanged_inputs_changes_nothing() -> None:
    w, x, _ = pairs()
    moments = Moments(len(x), len(x), x.mean(0), x.T @ x / len(x), np.eye(20))
    plain = decompose(w, moments, bias=True, gradients=True).factors(5)
    again = redirect(w, moments, mean=x.mean(0), cross=moments.second, bias=True).factors(5)
    np.testing.assert_allclose(again.product, plain.product, atol=1e-10)
    np.testing.assert_allclose(again.shift, plain.shift, atol=1e-10)


class Branches(nn.Module):
    """A network with siblings, a layer that runs twice, and one that never runs."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Linear(40, 48)
        self.q, self.k, self.twice = nn.Linear(48, 48), nn.Linear(48, 48), nn.Linear(48, 48)
        self.unused, self.head = nn.Linear(48, 48), nn.Linear(48, 4)

    def forward(self, x: Tensor) -> Tensor:
        x = torch.relu(self.stem(x))
        x = torch.relu(self.q(x)) + torch.tanh(self.k(x))
        return self.head(torch.relu(self.twice(torch.relu(self.twice(x)))))


def branches(folder: Path) -> rmtcli.Evaluation:
    """Write a trained network of branches, with its data, and return how to evaluate it."""
    torch.manual_seed(0)
    model = Branches()
    rng = np.random.default_rng(0)
    x = (rng.standard_normal((900, 6)) @ rng.standard_normal((6, 40))).astype(np.float32)
    inputs = torch.from_numpy(x)
    y = (inputs[:, 0] > 0).long() + 2 * (inputs[:, 7] > 0).long()
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-2)
    for _ in range(60):
        optimizer.zero_grad()
        nn.functional.cross_entropy(model(inputs[:600]), y[:600]).backward()
        optimizer.step()
    torch.save(model.state_dict(), folder / "a.pt")
    np.savez(folder / "d.npz", inputs=x[600:], targets=y[600:].numpy(), train_inputs=x[:600])
    return rmtcli.Evaluation(folder / "d.npz", model="tests.running.test_refine:Branches")


def test_layers_are_fitted_in_the_order_in_which_they_run() -> None:
    torch.manual_seed(0)
    model = Branches()
    inputs = np.random.default_rng(0).standard_normal((9, 40)).astype(np.float32)
    order: list[str] = []
    names = ["unused", "twice", "k", "q", "stem"]
    weights = {name: model.state_dict()[f"{name}.weight"].numpy() for name in names}
    steps = {n: RefitStep([n], 5, partial(Target, weights[n], True, None)) for n in names}
    refit(model, model, steps, inputs, nn.Module.__call__, lambda n, _: order.append(n), batch=4)
    assert order == ["stem", "q", "k", "twice"]


@pytest.mark.parametrize("options", [{"sequential": True}, {"heal": 8}, REFINED])
@pytest.mark.parametrize("layout", ["factored", "dense"])
def test_any_network_is_refined(tmp_path: Path, options: dict[str, int], layout: str) -> None:
    evaluation = branches(tmp_path)

    def run(**more: object) -> Report:
        calibration = rmtcli.Calibration(tmp_path / "d.npz", **more)  # type: ignore[arg-type]
        return rmtcli.prune(
            tmp_path / "a.pt",
            budget=Budget("40%"),
            layout=layout,
            evaluation=evaluation,
            calibration=calibration,
            force=True,
        )

    plain, better = run(), run(**options)
    assert [p.rank for p in plain.layers] == [p.rank for p in better.layers]
    assert plain.comparison is not None
    assert better.comparison is not None
    # A step that makes the network worse is undone, and the report says so.
    assert better.calibrated is not None
    undone = better.calibrated.undone
    assert sum("was undone" in note for note in better.notes) == len(undone)
    same = better.comparison.divergence == plain.comparison.divergence
    assert same == (set(undone) == set(options))
    # The written network is the one that was measured.
    again = rmtcli.evaluate(tmp_path / "a.pruned.pt", evaluation=evaluation)
    assert again.comparison is not None
    assert again.comparison.after.accuracy == better.comparison.after.accuracy
    healed = "heal" in options and "heal" not in undone
    assert (better.comparison.unhealed is not None) == healed


@pytest.mark.parametrize(("action", "rate"), [("prune", 30.0), ("prune", 1e30), ("curve", 30.0)])
def test_an_undone_healing_is_not_reported_as_healing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, action: str, rate: float
) -> None:
    """A learning rate that ruins the network: each report says that nothing was healed."""
    monkeypatch.setattr("rmtcli.running.distill.RATE", rate)
    calibration = rmtcli.Calibration(tmp_path / "d.npz", heal=3)
    options = {"evaluation": branches(tmp_path), "calibration": calibration}
    if action == "prune":
        report = rmtcli.prune(tmp_path / "a.pt", budget=Budget("40%"), **options)  # type: ignore[arg-type]
        assert report.comparison is not None
        assert report.comparison.unhealed is None
    else:
        report = rmtcli.curve(tmp_path / "a.pt", sizes=["40%"], **options)  # type: ignore[arg-type]
        assert report.to_dict()["curve"][0]["undone"] == ["heal"]
    record = report.to_dict()["calibration"]
    assert (record["heal"], record["undone"]) == (3, ["heal"])
    assert dict(summary(report))["calibrated"].endswith("; healing of 3 passes undone")
    for ending in (".md", ".html"):  # a model card is the Markdown
        page = RENDERERS[ending].render(report, Context())
        assert "healed in" not in page
        assert "Calibration(heal=…) was undone" in page


def test_healing_is_reported_separately_and_leaves_other_tensors_alone(tmp_path: Path) -> None:
    evaluation = rmtcli.Evaluation(MNIST)

    def run(heal: int) -> Report:
        calibration = rmtcli.Calibration(MNIST, sequential=True, heal=heal)
        path = tmp_path / f"{heal}.pt"
        options = {"evaluation": evaluation, "calibration": calibration}
        return rmtcli.prune(DEEP, path, budget=Budget("4%"), **options)  # type: ignore[arg-type]

    before, after = run(0), run(6)
    assert before.comparison is not None
    assert after.comparison is not None
    assert after.comparison.unhealed is not None
    assert after.comparison.unhealed.accuracy == before.comparison.after.accuracy
    assert after.comparison.after.accuracy > before.comparison.after.accuracy  # type: ignore[operator]
    files = [open_checkpoint(tmp_path / f"{heal}.pt") for heal in (0, 6)]
    same = {n for n in files[0].infos if np.array_equal(*(f.array(n) for f in files))}
    assert same == {"fc5.weight", "fc5.bias"}


def test_healing_is_repeatable(tmp_path: Path) -> None:
    calibration = rmtcli.Calibration(MNIST, heal=1)
    for name in ("a", "b"):
        rmtcli.prune(DEEP, tmp_path / f"{name}.pt", keep="edge", calibration=calibration)
    assert (tmp_path / "a.pt").read_bytes() == (tmp_path / "b.pt").read_bytes()


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float64])
def test_networks_of_other_dtypes_are_refined(tmp_path: Path, dtype: torch.dtype) -> None:
    evaluation = branches(tmp_path)
    state = {name: t.to(dtype) for name, t in torch.load(tmp_path / "a.pt").items()}
    torch.save(state, tmp_path / "a.pt")
    calibration = rmtcli.Calibration(tmp_path / "d.npz", sequential=True, heal=4)
    report = rmtcli.prune(
        tmp_path / "a.pt", budget=Budget("40%"), evaluation=evaluation, calibration=calibration
    )
    assert report.comparison is not None
    assert report.comparison.agreement > 80  # type: ignore[operator]
    assert {t.dtype for t in torch.load(tmp_path / "a.pruned.pt").values()} == {dtype}


class Tied(nn.Module):
    """A network with two layers that share one weight and have a bias each."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.a, self.b = nn.Linear(40, 48), nn.Linear(48, 48), nn.Linear(48, 48)
        self.head = nn.Linear(48, 4)
        self.b.weight = self.a.weight

    def forward(self, x: Tensor) -> Tensor:
        x = torch.relu(self.a(torch.relu(self.stem(x))))
        return self.head(torch.relu(self.b(x)))


@pytest.mark.parametrize("ending", ["pt", "safetensors"])
def test_tied_layers_keep_one_weight_and_their_own_biases(tmp_path: Path, ending: str) -> None:
    from safetensors.torch import save_file

    torch.manual_seed(1)
    state = Tied().state_dict()
    if ending == "pt":
        torch.save(state, tmp_path / "t.pt")
    else:
        save_file({n: t.clone() for n, t in state.items()}, tmp_path / "t.safetensors")
    branches(tmp_path)  # for its data
    evaluation = rmtcli.Evaluation(tmp_path / "d.npz", model="tests.running.test_refine:Tied")
    calibration = rmtcli.Calibration(tmp_path / "d.npz", sequential=True, heal=20)
    report = rmtcli.prune(
        tmp_path / f"t.{ending}", keep="rank:k=4", evaluation=evaluation, calibration=calibration
    )
    written = open_checkpoint(tmp_path / f"t.pruned.{ending}")
    for part in ("0.weight", "1.weight"):
        assert np.array_equal(written.array(f"a.{part}"), written.array(f"b.{part}"))
    # Each layer keeps its own bias, which is nearer to its dense one than to the other's.
    for own, other in ("ab", "ba"):
        bias = written.array(f"{own}.1.bias")
        near, far = (np.linalg.norm(bias - state[f"{n}.bias"].numpy()) for n in (own, other))
        assert near < far
    again = rmtcli.evaluate(tmp_path / f"t.pruned.{ending}", evaluation=evaluation)
    assert report.comparison is not None
    assert again.comparison is not None
    outputs = again.comparison.after.outputs
    np.testing.assert_array_equal(outputs, report.comparison.after.outputs)


def test_the_guard_finds_a_smaller_network_with_refinement() -> None:
    def size(**options: object) -> int:
        calibration = rmtcli.Calibration(MNIST, **options)  # type: ignore[arg-type]
        evaluation = rmtcli.Evaluation(MNIST)
        report = rmtcli.prune(
            DEEP, max_drop=1.0, evaluation=evaluation, calibration=calibration, dry_run=True
        )
        assert report.comparison is not None
        assert report.comparison.drop < 1.3  # type: ignore[operator]
        return report.parameters[1]

    assert size(sequential=True) <= size()


def test_refinement_without_inputs_is_refused() -> None:
    with pytest.raises(UsageError, match="give inputs with calibration="):
        rmtcli.prune(DEEP, calibration=rmtcli.Calibration(heal=1), dry_run=True)
    with pytest.raises(UsageError, match="healing takes at least 0 passes"):
        rmtcli.Calibration(heal=-1)
