"""What a network's outputs are: told by the task, or inferred; and the measures that follow."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

import rmtcli
from rmtcli.errors import EvaluationError, UsageError
from rmtcli.evaluation import Comparison, Rows, Samples, Scores
from rmtcli.evaluation.measures import distance, divergence, margins, merits, relative_change
from rmtcli.evaluation.reading import Reading, read_rows
from rmtcli.evaluation.score import measure
from rmtcli.evaluation.sense import no_better_than_chance
from rmtcli.planning import Budget
from rmtcli.report.summary import summary
from rmtcli.report.table import table

SCORES = np.array([[2.0, -1.0], [0.5, 3.0], [-4.0, 1.0]])
UNIT = SCORES / np.linalg.norm(SCORES, axis=1, keepdims=True)
SOFTMAX = np.exp(SCORES) / np.exp(SCORES).sum(1, keepdims=True)
SIGMOID = 1 / (1 + np.exp(-SCORES))
LABELS = np.array([[1, 0], [1, 1], [0, 1]])


@pytest.mark.parametrize(
    ("targets", "outputs", "rows", "probabilities"),
    [
        (np.array([0, 1, 1]), SCORES, Rows.CLASSES, False),
        (np.array([0, 1, 1]), SOFTMAX, Rows.CLASSES, True),
        (np.eye(2)[[0, 1, 1]], SCORES, Rows.CLASSES, False),
        (np.array([[0], [1], [1]]), SCORES, Rows.CLASSES, False),
        (LABELS, SCORES, Rows.LABELS, False),
        (LABELS.astype(np.float32), SIGMOID, Rows.LABELS, True),
        (np.array([0, 1, 1]), SCORES[:, :1], Rows.LABELS, False),
        (np.array([0.5, 1, 1]), SCORES[:, :1], Rows.VALUES, False),
        (SCORES, SCORES, Rows.VALUES, False),
        (np.array([7, 1, 2]), UNIT, Rows.CLASSES, False),
        (None, UNIT, Rows.VECTORS, False),
        (None, SOFTMAX, Rows.CLASSES, True),
        (None, SIGMOID, Rows.LABELS, True),
        (None, SCORES[:, :1], Rows.VALUES, False),
        (None, SCORES, Rows.CLASSES, False),
    ],
)
def test_rows_are_inferred(
    targets: np.ndarray | None, outputs: np.ndarray, rows: Rows, probabilities: bool
) -> None:
    reading = read_rows(targets, outputs, None)
    assert (reading.rows, reading.probabilities) == (rows, probabilities)
    assert reading.words.startswith(rows.value)
    assert "task=" in read_rows(targets, outputs, Rows.VALUES).words


def test_scores_of_probabilities_are_those_before_the_softmax_or_sigmoid() -> None:
    got = Reading(Rows.CLASSES, True).scores(torch.from_numpy(SOFTMAX))
    np.testing.assert_allclose(got - got[:, :1], SCORES - SCORES[:, :1], atol=1e-6)
    got = Reading(Rows.LABELS, True).scores(torch.from_numpy(SIGMOID))
    np.testing.assert_allclose(got, SCORES, atol=1e-5)
    for rows in (Rows.CLASSES, Rows.LABELS):  # a float32 sigmoid reaches 1
        assert Reading(rows, True).scores(torch.tensor([[0.0, 1.0]])).isfinite().all()


def test_the_measures_of_labels() -> None:
    """Of six labels, one is wrong: the first of the second sample is not set after the change."""
    after = SCORES.copy()
    after[1, 0] = -0.5
    assert merits(SCORES, LABELS, Rows.LABELS).tolist() == [1, 1, 1]
    assert merits(after, LABELS, Rows.LABELS).tolist() == [1, 0.5, 1]
    p = 1 / (1 + math.exp(-0.5))  # 1 − p after the change
    one = p * math.log(p / (1 - p)) + (1 - p) * math.log((1 - p) / p)
    assert divergence(SCORES, after, Rows.LABELS) == pytest.approx(one / 6)
    assert distance(SCORES, after, Rows.LABELS) == pytest.approx(one / 6)
    assert margins(after, LABELS, Rows.LABELS).tolist() == [2, 1, -0.5, 3, 4, 1]
    reading = Reading(Rows.LABELS)
    before = Scores(SCORES, 100.0, None, merits=merits(SCORES, LABELS, Rows.LABELS))
    changed = Scores(after, 500 / 6, None, merits=merits(after, LABELS, Rows.LABELS))
    comparison = Comparison("x", None, before, changed, reading=reading)
    assert comparison.agreement == pytest.approx(500 / 6)
    assert comparison.drop == pytest.approx(100 / 6)
    assert comparison.cosines is comparison.relative_change is None


def test_the_measures_of_numbers() -> None:
    targets = np.array([[0.0, 5.0], [2.0, 5.0], [4.0, 5.0]])
    outputs = np.array([[1.0, 5.0], [2.0, 6.0], [3.0, 5.0]])
    # First column: residuals 1, 0, −1 and deviations −2, 0, 2. The second does not vary.
    assert merits(outputs, targets, Rows.VALUES).mean() == pytest.approx(1 - 2 / 8)
    assert distance(targets, outputs, Rows.VALUES) == pytest.approx(3 / 6)
    assert relative_change(targets, outputs) == pytest.approx(math.sqrt(3 / 8))
    assert relative_change(targets[:1], outputs[:1]) is None
    with pytest.raises(ValueError, match="R² is not defined"):
        merits(outputs, np.ones((3, 2)), Rows.VALUES)


class Last(nn.Module):
    """Two layers, and what comes after them."""

    def __init__(self, last: nn.Module, width: int) -> None:
        super().__init__()
        self.body, self.head = nn.Linear(12, 48), nn.Linear(48, width)
        self.last = last

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.last(self.head(torch.relu(self.body(x))))


class Unit(nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return nn.functional.normalize(x)


def classes() -> nn.Module:
    return Last(nn.Softmax(1), 5)


def labels() -> nn.Module:
    return Last(nn.Sigmoid(), 5)


def embedding() -> nn.Module:
    return Last(Unit(), 5)


def regression() -> nn.Module:
    return Last(nn.Flatten(0), 1)


#: Factory -> targets from the outputs of the network, and words of the report.
KINDS: dict[str, tuple[Any, list[str]]] = {
    "classes": (lambda y: y.argmax(1), ["task", "accuracy", "agreement", "margin"]),
    "labels": (lambda y: (y > 0.5).astype(int), ["task", "label accuracy", "agreement", "margin"]),
    "embedding": (None, ["task", "cosine"]),
    "regression": (lambda y: y + 0.01, ["task", "R²", "squared error", "change"]),
}


def written(kind: str, folder: Path) -> rmtcli.Evaluation:
    """A random network of a kind, with data on which it is right, and how to evaluate it."""
    torch.manual_seed(0)
    network = globals()[kind]()
    rng = np.random.default_rng(0)
    x = rng.standard_normal((300, 12)).astype(np.float32)
    torch.save(network.state_dict(), folder / "a.pt")
    with torch.no_grad():
        outputs = network(torch.from_numpy(x)).numpy()
    arrays = {"inputs": x[:100], "train_inputs": x[100:]}
    if KINDS[kind][0] is not None:
        arrays["targets"] = KINDS[kind][0](outputs)[:100]
    np.savez(folder / "d.npz", **arrays)
    return rmtcli.Evaluation(folder / "d.npz", model=f"tests.evaluation.test_reading:{kind}")


@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_of_network_is_calibrated_healed_scored_and_guarded(
    kind: str, tmp_path: Path
) -> None:
    evaluation = written(kind, tmp_path)
    calibration = rmtcli.Calibration(tmp_path / "d.npz", heal=2)
    report = rmtcli.prune(
        tmp_path / "a.pt",
        budget=Budget("60%"),
        evaluation=evaluation,
        calibration=calibration,
    )
    assert report.comparison is not None
    assert report.comparison.before is not None
    assert report.comparison.drop is not None
    assert report.comparison.before.accuracy > 99  # type: ignore[operator]
    assert 0 < report.comparison.drop < 60
    lines = [label for label, _ in summary(report)]
    assert [label for label in lines if label in KINDS[kind][1]] == KINDS[kind][1]
    assert not set(lines) & ({"accuracy", "agreement", "cosine", "R²"} - set(KINDS[kind][1]))
    again = rmtcli.evaluate(
        tmp_path / "a.pruned.pt", evaluation=evaluation, against=tmp_path / "a.pt"
    )
    assert again.comparison is not None
    assert again.comparison.after.accuracy == pytest.approx(report.comparison.after.accuracy)
    guarded = rmtcli.prune(
        tmp_path / "a.pt", max_drop=50, evaluation=evaluation, calibration=calibration, dry_run=True
    )
    assert guarded.guard is not None
    assert guarded.guard.confidence is not None
    points = guarded.comparison.rows.points  # type: ignore[union-attr]
    assert f"at most 50 points of {points} is" in dict(summary(guarded))["guard"]


def test_healing_brings_numbers_nearer(tmp_path: Path) -> None:
    evaluation = written("regression", tmp_path)

    def change(heal: int) -> float:
        calibration = rmtcli.Calibration(tmp_path / "d.npz", heal=heal)
        report = rmtcli.prune(
            tmp_path / "a.pt",
            keep="rank:k=4",
            evaluation=evaluation,
            calibration=calibration,
            dry_run=True,
        )
        assert report.comparison is not None
        return report.comparison.relative_change or 0.0

    assert change(2) < change(0)


def test_a_curve_of_numbers_shows_r_squared(tmp_path: Path) -> None:
    report = rmtcli.curve(
        tmp_path / "a.pt", sizes=["80%", "50%"], evaluation=written("regression", tmp_path)
    )
    columns, rows = table(report)
    assert "accuracy" not in columns
    large, small = (float(row[columns.index("R²")]) for row in rows)
    assert small < large < 1
    assert dict(summary(report))["dense"].endswith("R² 0.9999") or large > 0.9


def test_a_task_that_is_not_the_networks_is_refused(tmp_path: Path) -> None:
    written("classes", tmp_path)
    model = "tests.evaluation.test_reading:classes"

    def scored(task: str, **arrays: np.ndarray) -> None:
        x = np.load(tmp_path / "d.npz")["inputs"]
        np.savez(tmp_path / "e.npz", inputs=x, **arrays)
        evaluation = rmtcli.Evaluation(tmp_path / "e.npz", model=model, task=task)
        rmtcli.evaluate(tmp_path / "a.pt", evaluation=evaluation)

    with pytest.raises(UsageError, match=r"is for Hugging Face directories: leave it out, or choo"):
        scored("causal-lm")
    with pytest.raises(EvaluationError, match="must be 0 or 1: is this the right task="):
        scored("multi-label-classification", targets=np.arange(100))
    with pytest.raises(EvaluationError, match="1 targets per sample for a network with 5 outputs"):
        scored("regression", targets=np.arange(100))
    with pytest.raises(EvaluationError, match=r"class numbers \(integers\), not float64"):
        scored("classification", targets=np.arange(100) / 2)
    with pytest.raises(EvaluationError, match=r"its R² is -.* are the targets scaled"):
        scored("regression", targets=np.random.default_rng(0).standard_normal((100, 5)) + 9)
    with pytest.raises(EvaluationError, match="give against="):
        scored("classification")


def test_a_network_at_chance_has_nothing_to_lose(tmp_path: Path) -> None:
    evaluation = written("classes", tmp_path)
    arrays = dict(np.load(tmp_path / "d.npz"))
    np.savez(tmp_path / "d.npz", **(arrays | {"targets": np.arange(100) % 5}))
    report = rmtcli.prune(tmp_path / "a.pt", keep="rank:k=6", evaluation=evaluation, dry_run=True)
    text = dict(summary(report))["accuracy"]
    assert text.endswith("(the dense network does no better than chance)")
    assert any("the scores say nothing about pruning" in note for note in report.notes)
    curve = rmtcli.curve(tmp_path / "a.pt", sizes=["80%"], evaluation=evaluation)
    assert "change" not in table(curve)[0]
    assert curve.notes[0] == report.notes[0]


@pytest.mark.parametrize(
    ("scores", "rows", "chance"),
    [
        (Scores(None, 5.0, None, perplexity=99.5, classes=99), Rows.CLASSES, True),
        (Scores(None, 5.0, None, perplexity=60.0, classes=99), Rows.CLASSES, False),
        (Scores(None, 50.0, None, merits=np.tile([0.0, 1.0], 50)), Rows.LABELS, True),
        (Scores(None, 80.0, None, merits=np.tile([1.0, 0.6], 50)), Rows.LABELS, False),
        (Scores(None, 0.5, None, merits=np.tile([-0.99, 1.0], 50)), Rows.VALUES, True),
        (Scores(None, 90.0, None, merits=np.full(100, 0.9)), Rows.VALUES, False),
        (Scores(None, 100.0, None, merits=np.ones(100)), Rows.VECTORS, False),
    ],
)
def test_chance_is_told_by_task(scores: Scores, rows: Rows, chance: bool) -> None:
    assert no_better_than_chance(scores, rows) == chance


def test_only_classifiers_are_finetuned(tmp_path: Path) -> None:
    evaluation = written("regression", tmp_path)
    arrays = dict(np.load(tmp_path / "d.npz"))
    targets = {"train_targets": np.linspace(0, 1, len(arrays["train_inputs"]))}
    np.savez(tmp_path / "d.npz", **(arrays | targets))
    with pytest.raises(EvaluationError, match=r"finetune trains networks for classification.*regr"):
        rmtcli.finetune(tmp_path / "a.pt", keep="rank:k=4", evaluation=evaluation)
    assert not (tmp_path / "a.finetuned.pt").exists()


def test_outputs_that_saturate_are_measured() -> None:
    class Half(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.weight = nn.Parameter(torch.ones(()))

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return (30 * self.weight * x).sigmoid()

    x = np.array([[1.0, -1.0], [-1.0, 1.0]], np.float32)
    samples = Samples(Path("x.npz"), x, np.array([[1, 0], [0, 1]]), scaled=False)
    scores = measure(Half(), samples, None, Reading(Rows.LABELS, True))
    assert scores.accuracy == 100
    assert scores.outputs is not None
    assert np.isfinite(scores.outputs).all()
