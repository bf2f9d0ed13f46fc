"""Budgets, calibration and the guard, from file to file."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import rmtcli
from rmtcli.errors import EvaluationError, UsageError
from rmtcli.keep import Untouched
from rmtcli.planning import Budget
from rmtcli.report.base import Report
from tests.conftest import DIGITS, Run, tree

DEEP = DIGITS / "digits.pt"
MNIST = rmtcli.Evaluation(DIGITS / "digits.npz")


def pruned(budget: str, unit: str = "parameters", **options: object) -> Report:
    options = {"evaluation": MNIST, "budget": Budget(budget, unit), "dry_run": True} | options
    return rmtcli.prune(DEEP, **options)  # type: ignore[arg-type]


def drop(report: Report) -> float:
    assert report.comparison is not None
    assert report.comparison.drop is not None
    return report.comparison.drop


def test_a_fifth_of_the_parameters_keep_the_accuracy() -> None:
    report = pruned("20%")
    # At more parameters still, a uniform ratio of plain truncations is far behind.
    assert 0.195 < report.parameters[1] / report.parameters[0] <= 0.2
    assert drop(report) < 0.5
    plain = rmtcli.prune(DEEP, keep="fraction:of=0.12", evaluation=MNIST, dry_run=True)
    assert plain.parameters[1] > report.parameters[1]
    assert drop(plain) > drop(report) + 1


def test_a_budget_counts_parameters_bytes_or_multiply_adds(tmp_path: Path) -> None:
    by_share = pruned("10%")
    by_number = pruned(str(round(0.1 * by_share.parameters[0])))
    assert [p.rank for p in by_share.layers] == [p.rank for p in by_number.layers]
    in_bytes = pruned("10%", "bytes")
    assert [p.rank for p in in_bytes.layers] == [p.rank for p in by_share.layers]
    macs = pruned("10%", "macs")
    sizes = [p.size for p in macs.layers]
    assert 0.095 < sum(sizes) / sum(p.layer.size for p in macs.layers) <= 0.1


def test_ranks_are_multiples_of_rank_multiple(tmp_path: Path) -> None:
    report = pruned("20%", rank_multiple=8)
    assert all(plan.rank % 8 == 0 for plan in report.pruned)
    assert report.parameters[1] <= 0.2 * report.parameters[0]


def test_a_budget_without_data_is_divided_by_the_weights() -> None:
    report = pruned("10%", evaluation=None)
    assert report.calibrated is None
    assert report.parameters[1] <= 0.1 * report.parameters[0]
    assert all(plan.predicted_loss is None for plan in report.layers)


def test_calibration_improves_the_factors_of_any_rule() -> None:
    calibration = rmtcli.Calibration(DIGITS / "digits.npz")
    plain = rmtcli.prune(DEEP, evaluation=MNIST, dry_run=True)
    mended = rmtcli.prune(DEEP, evaluation=MNIST, calibration=calibration, dry_run=True)
    assert [p.rank for p in plain.layers] == [p.rank for p in mended.layers]
    assert plain.comparison is not None
    assert mended.comparison is not None
    assert mended.comparison.divergence < 0.6 * plain.comparison.divergence


@pytest.mark.parametrize("layout", ["factored", "pivoted", "dense"])
def test_the_written_network_is_the_measured_one(tmp_path: Path, layout: str) -> None:
    path = tmp_path / "a.safetensors"
    report = rmtcli.prune(DEEP, path, budget=Budget("10%"), evaluation=MNIST, layout=layout)
    again = rmtcli.evaluate(path, evaluation=MNIST)
    assert report.comparison is not None
    assert again.comparison is not None
    assert again.comparison.after.accuracy == report.comparison.after.accuracy


def test_the_guard_holds_on_unseen_samples(tmp_path: Path) -> None:
    with np.load(DIGITS / "digits.npz") as file:
        arrays = {name: file[name] for name in file.files}
    for name, rows in (("some", slice(3000)), ("others", slice(3000, None))):
        kept = {key: arrays[key][rows] for key in ("inputs", "targets")}
        np.savez(tmp_path / f"{name}.npz", **kept)
    report = rmtcli.prune(
        DEEP,
        tmp_path / "small.safetensors",
        max_drop=0.5,
        evaluation=rmtcli.Evaluation(tmp_path / "some.npz"),
        calibration=rmtcli.Calibration(DIGITS / "digits.npz"),
    )
    assert report.parameters[1] <= 0.2 * report.parameters[0]
    assert report.guard is not None
    assert report.guard.searched == 3000
    assert report.guard.confidence is not None
    assert 0.9 <= report.guard.confidence < 1
    unseen = rmtcli.Evaluation(tmp_path / "others.npz")
    again = rmtcli.evaluate(tmp_path / "small.safetensors", evaluation=unseen, against=DEEP)
    assert drop(again) <= 0.5


def test_a_guard_without_other_inputs_calibrates_on_a_share_of_its_samples(tmp_path: Path) -> None:
    with np.load(DIGITS / "digits.npz") as file:
        np.savez(tmp_path / "test.npz", inputs=file["inputs"], targets=file["targets"])
    evaluation = rmtcli.Evaluation(tmp_path / "test.npz")
    report = rmtcli.prune(DEEP, max_drop=0.5, evaluation=evaluation, dry_run=True)
    assert report.calibrated is not None
    assert str(report.calibrated.settings.data) == f"{tmp_path / 'test.npz'}@40%"
    assert report.calibrated.samples == 1600
    assert report.guard is not None
    assert report.guard.searched == 2400
    assert report.comparison is not None
    assert report.comparison.samples is not None
    assert len(report.comparison.samples.inputs) == 2400
    assert report.parameters[1] <= 0.2 * report.parameters[0]
    assert report.plan is not None
    again = rmtcli.prune(DEEP, plan=report.plan, evaluation=evaluation, dry_run=True)
    assert [p.relative_error for p in again.layers] == [p.relative_error for p in report.layers]


def test_too_few_samples_promise_nothing(tmp_path: Path) -> None:
    with np.load(DIGITS / "digits.npz") as file:
        np.savez(tmp_path / "few.npz", inputs=file["inputs"][:90], targets=file["targets"][:90])
    evaluation = rmtcli.Evaluation(tmp_path / "few.npz")
    with pytest.raises(EvaluationError, match=r"54 samples are too few for max_drop=0.5"):
        rmtcli.prune(DEEP, max_drop=0.5, evaluation=evaluation, dry_run=True)


def test_a_looser_limit_gives_a_smaller_network() -> None:
    sizes = [
        rmtcli.prune(DEEP, max_drop=limit, evaluation=MNIST, dry_run=True).parameters[1]
        for limit in (0.2, 1.0, 5.0)
    ]
    assert sizes == sorted(sizes, reverse=True)
    assert sizes[0] > sizes[-1]


class Guarded(nn.Module):
    """A network in which nothing may change: its score counts equal weights."""

    def __init__(self) -> None:
        super().__init__()
        self.fc, self.head = nn.Linear(40, 40), nn.Linear(40, 10)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(torch.relu(self.fc(x)))


def whole(model: nn.Module) -> float:
    return 0.0 if isinstance(model.fc, nn.Sequential) else 1.0


def test_where_nothing_can_be_removed_only_the_report_is_written(
    tmp_path: Path, rmtcli: Run
) -> None:
    torch.save(Guarded().state_dict(), tmp_path / "a.pt")
    before = tree(tmp_path)
    result = rmtcli(
        *("prune", tmp_path / "a.pt", "--max-drop", 0.5, "--report", tmp_path / "r.json"),
        *("--model", "tests.pipeline.test_joint:Guarded"),
        *("--eval", "tests.pipeline.test_joint:whole"),
    )
    assert result.returncode == 1
    assert "nothing can be removed within --max-drop 0.5: no checkpoint written" in result.stderr
    assert set(tree(tmp_path)) == {*before, "r.json"}
    assert Untouched.GUARD.value in result.stdout


class Normed(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.fc1, self.norm = nn.Linear(40, 64), nn.BatchNorm1d(64)
        self.fc2, self.head = nn.Linear(64, 64), nn.Linear(64, 4)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(torch.relu(self.fc2(torch.relu(self.norm(self.fc1(x))))))


class Residual(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.stem, self.a, self.head = nn.Linear(40, 48), nn.Linear(48, 48), nn.Linear(48, 4)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        return self.head(x + torch.relu(self.a(x)))


class Shared(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.stem, self.a, self.head = nn.Linear(40, 48), nn.Linear(48, 48), nn.Linear(48, 4)
        self.b = self.a

    def forward(self, x: Tensor) -> Tensor:
        return self.head(torch.relu(self.b(torch.relu(self.a(torch.relu(self.stem(x)))))))


class Lstm(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.lstm = nn.LSTM(8, 48, batch_first=True)
        self.fc, self.head = nn.Linear(48, 64, bias=False), nn.Linear(64, 4)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(torch.relu(self.fc(self.lstm(x.unflatten(1, (5, 8)))[0][:, -1])))


@pytest.mark.parametrize("name", ["Normed", "Residual", "Shared", "Lstm"])
@pytest.mark.parametrize("metric", ["two-sided", "one-sided"])
def test_networks_of_every_kind_are_calibrated(tmp_path: Path, name: str, metric: str) -> None:
    torch.manual_seed(0)
    model = globals()[name]()
    rng = np.random.default_rng(0)
    x = (rng.standard_normal((900, 6)) @ rng.standard_normal((6, 40))).astype(np.float32)
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-2)
    inputs = torch.from_numpy(x)
    y = (inputs[:, 0] > 0).long() + 2 * (inputs[:, 7] > 0).long()
    for _ in range(60):
        optimizer.zero_grad()
        nn.functional.cross_entropy(model(inputs[:600]), y[:600]).backward()
        optimizer.step()
    torch.save(model.eval().state_dict(), tmp_path / "a.pt")
    arrays = {"train_inputs": x[:600], "inputs": x[600:], "targets": y[600:].numpy()}
    np.savez(tmp_path / "x.npz", **arrays)
    evaluation = rmtcli.Evaluation(tmp_path / "x.npz", f"tests.pipeline.test_joint:{name}")
    share = 0.9 if name == "Lstm" else 0.6  # most of it is recurrent, and stays
    report = rmtcli.prune(
        tmp_path / "a.pt",
        budget=Budget(f"{100 * share}%"),
        evaluation=evaluation,
        calibration=rmtcli.Calibration(metric=metric),
    )
    assert report.parameters[1] <= share * report.parameters[0]
    assert report.pruned
    assert drop(report) <= 3  # inputs of rank 6: little has to be kept
    loaded = rmtcli.load(globals()[name](), tmp_path / "a.pruned.pt").eval()
    accuracy = 100 * float((loaded(inputs[600:]).argmax(1) == y[600:]).float().mean())
    assert report.comparison is not None
    assert accuracy == pytest.approx(report.comparison.after.accuracy, abs=0.35)  # one sample


def calibration_on(tmp_path: Path, inputs: np.ndarray) -> rmtcli.Calibration:
    np.savez(tmp_path / "c.npz", inputs=inputs)
    return rmtcli.Calibration(tmp_path / "c.npz")


def test_bad_calibration_data_is_reported(tmp_path: Path) -> None:
    good = np.random.default_rng(0).random((50, 196)).astype(np.float32)
    nan = good.copy()
    nan[3, 4] = np.nan
    cases = [
        (good[:, :150], "the network does not take inputs of shape"),
        (nan, "holds values that are NaN or infinite"),
        (good[:1], "calibration needs samples that differ"),
        (np.repeat(good[:1], 9, axis=0), "calibration needs samples that differ"),
    ]
    for inputs, message in cases:
        with pytest.raises(EvaluationError, match=message):
            pruned("10%", calibration=calibration_on(tmp_path, inputs))


def test_three_rows_are_poor_but_the_guard_holds(tmp_path: Path) -> None:
    with np.load(DIGITS / "digits.npz") as data:
        rows = data["train_inputs"][:3]
    report = rmtcli.prune(
        DEEP,
        max_drop=0.5,
        evaluation=MNIST,
        calibration=calibration_on(tmp_path, rows),
        dry_run=True,
    )
    assert drop(report) <= 0.8  # the limit, and the noise of 4,000 samples


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"budget": Budget("0%")}, "is not between 0 and"),
        ({"budget": Budget("101%")}, "is not between 0 and"),
        ({"budget": Budget("ten")}, "a budget is a share such as 10% or a number of parameters"),
        ({"budget": Budget("0.1%")}, "a budget of 0.1% cannot be met"),
        ({"budget": Budget("5%"), "max_drop": 1.0}, "exclude each other"),
        ({"budget": Budget("5%"), "keep": "edge"}, 'keep="edge" sets ranks itself'),
        ({"max_drop": -1.0}, "max_drop= must be at least 0"),
        ({"max_drop": float("nan")}, "max_drop= must be at least 0"),
        (
            {"max_drop": 1.0, "evaluation": None},
            "max_drop= needs data= with 'targets', or score=",
        ),
        ({"budget": Budget("5%"), "rank_multiple": 0}, "rank_multiple= must be at least 1"),
    ],
)
def test_contradictory_goals_are_refused(options: dict[str, object], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        rmtcli.prune(DEEP, **({"evaluation": MNIST, "dry_run": True} | options))  # type: ignore[arg-type]
