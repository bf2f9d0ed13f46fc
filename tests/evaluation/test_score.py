from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from rmtcli.errors import EvaluationError
from rmtcli.evaluation import Comparison, Samples
from rmtcli.evaluation.reading import CLASSES
from rmtcli.evaluation.score import Scores, measure
from rmtcli.evaluation.tasks import Arrays

PATH = Path("x.npz")


class Pick(nn.Module):
    """Returns its inputs, in the type and on the device of a parameter."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(()))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x * self.weight


def samples(count: int, classes: int = 5) -> Samples:
    rng = np.random.default_rng(0)
    x = rng.standard_normal((count, classes)).astype(np.float32)
    return Samples(PATH, x, rng.integers(0, classes, count), scaled=False)


@pytest.mark.parametrize("count", [1, Arrays.batch - 1, Arrays.batch, Arrays.batch + 1])
def test_accuracy_is_the_share_of_correct_predictions(count: int) -> None:
    data = samples(count)
    scores = measure(Pick(), data, None, CLASSES)
    expected = data.inputs.argmax(1)
    np.testing.assert_array_equal(scores.predictions, expected)
    assert scores.accuracy == pytest.approx(100 * np.mean(expected == data.targets))


def test_agreement_and_drop_compare_two_networks() -> None:
    before = Scores(np.eye(4), 75.0, None)
    after = Scores(np.eye(4)[[0, 1, 2, 0]], 50.0, None)
    comparison = Comparison("x", None, before, after)
    assert comparison.agreement == 75
    assert comparison.drop == 25
    alone = Comparison("x", None, None, after)
    assert alone.agreement is None
    assert alone.drop is None


def test_without_targets_there_is_no_accuracy() -> None:
    data = samples(9)
    scores = measure(Pick(), Samples(PATH, data.inputs, None, False), None, CLASSES)
    assert scores.accuracy is None
    assert scores.predictions is not None


class Broken(Pick):
    def __init__(self, kind: str) -> None:
        super().__init__()
        self.kind = kind

    def forward(self, x: torch.Tensor) -> object:
        if self.kind == "shape":
            return x @ torch.ones(7, 7)
        return {"nan": x * torch.nan, "flat": x.sum(), "dict": {"logits": x}}[self.kind]


@pytest.mark.parametrize(
    ("kind", "message"),
    [
        ("shape", "the network fails on inputs of shape (3, 5) from x.npz: mat1 and mat2"),
        ("nan", "returned values that are NaN or infinite"),
        ("flat", "returned (): one row of outputs per sample is needed: name a factory"),
        ("dict", "returned dict: one row of outputs per sample is needed"),
    ],
)
def test_networks_without_rows_are_refused(kind: str, message: str) -> None:
    with pytest.raises(EvaluationError) as caught:
        measure(Broken(kind), samples(3), None, CLASSES)
    assert message in str(caught.value)


def test_targets_that_are_not_classes_of_the_network_are_refused() -> None:
    data = Samples(PATH, samples(3).inputs, np.array([0, 1, 5]), False)
    with pytest.raises(
        EvaluationError, match=r"has class 5 among its targets, but the network has only 5"
    ):
        measure(Pick(), data, None, CLASSES)
