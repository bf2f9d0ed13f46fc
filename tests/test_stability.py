"""The doubling condition, on margins made to hold it and to break it."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from rmtcli.errors import UsageError
from rmtcli.evaluation.comparison import Comparison
from rmtcli.evaluation.data import Samples
from rmtcli.evaluation.scores import Scores
from rmtcli.report.measured import measured
from rmtcli.report.scores import scores as lines
from rmtcli.stability import FACTOR, FEWEST, LEAST, MOST, doubling, near_zero, stability
from rmtcli.training import RMTPruner


def power(exponent: float, n: int = 20_000) -> np.ndarray:
    """Margins of which a share x^exponent is at most x."""
    return np.asarray((np.arange(1, n + 1) / n) ** (1 / exponent))


@pytest.mark.parametrize("exponent", [0.5, 1.0, 2.0])
def test_margins_of_a_power_law_double_by_their_exponent(exponent: float) -> None:
    assert doubling(power(exponent)) == pytest.approx(2**exponent - 1, rel=0.02)


def test_signs_and_scale_do_not_count() -> None:
    margins = power(1.0)
    signs = np.where(np.arange(len(margins)) % 3, 1, -1)
    assert doubling(margins) == doubling(7.5 * signs * margins)


def test_a_small_group_near_zero_breaks_the_condition() -> None:
    margins = power(1.0, 1000) + 1  # nothing between 0 and 1
    assert doubling(margins) is None  # doubled, every interval holds more than half
    assert doubling(np.r_[np.full(30, 0.1), margins]) == 0
    # A smaller group is not tested.
    assert doubling(np.r_[np.full(FEWEST - 1, 0.1), margins]) is None


def test_the_least_ratio_over_all_intervals_is_found() -> None:
    rng = np.random.default_rng(0)
    margins = rng.standard_normal(3000) * rng.uniform(0.1, 2, 3000)
    sigma = doubling(margins)
    assert sigma is not None
    sizes, ratios = np.abs(margins), []
    for x in np.geomspace(1e-3, 5, 4000):
        inner, outer = (sizes <= x).mean(), (sizes <= FACTOR * x).mean()
        if inner * len(sizes) >= max(LEAST * len(sizes), FEWEST) and outer < MOST:
            ratios.append(outer / inner - 1)
    assert sigma - 1e-9 <= min(ratios) <= sigma + 0.05


@pytest.mark.parametrize("exponent", [0.5, 1.0, 2.0])
def test_few_samples_have_little_confidence_where_the_condition_holds(exponent: float) -> None:
    margins = power(exponent)
    sigma = doubling(margins)
    assert sigma is not None
    eta = float(np.quantile(margins, MOST))
    for ratio in (1.0, 0.5, 0.3, 0.1, 0.01):
        assert (margins <= ratio * eta).mean() <= near_zero(sigma, ratio) * (1 + 1e-3)
    assert near_zero(1.0, 0.25) == MOST / 4


def test_wrong_samples_need_a_cross_entropy() -> None:
    """No scores exist with more wrong samples than the bound allows; some come near it."""
    rng = np.random.default_rng(0)
    for spread in (0.1, 1.0, 5.0):
        scores = torch.tensor(spread * rng.standard_normal((500, 4)))
        classes = torch.tensor(rng.integers(4, size=500))
        losses = nn.functional.cross_entropy(scores, classes, reduction="none").numpy()
        right = float((scores.argmax(1) == classes).double().mean())
        assert stability(np.ones(500), losses).stays <= right
    losses = np.r_[np.full(100, math.log(2)), np.zeros(900)]  # ties, and certainty
    assert stability(np.ones(1000), losses).stays == pytest.approx(0.9)


def test_a_comparison_reports_both_networks() -> None:
    rng = np.random.default_rng(0)
    targets = rng.integers(3, size=400)
    outputs = rng.standard_normal((400, 3)) + 4 * np.eye(3)[targets]
    samples = Samples(Path("x.npz"), np.zeros((400, 1), np.float32), targets, False)
    before, after = (Scores(x, 90.0, None, classes=3) for x in (outputs, outputs / 2))
    comparison = Comparison("a chain", samples, before, after)
    record = measured(comparison)["stability"]
    expected = nn.functional.cross_entropy(torch.tensor(outputs / 2), torch.tensor(targets))
    assert record["after"]["cross_entropy"] == pytest.approx(float(expected))
    assert record["after"]["doubling"] == record["before"]["doubling"] > 0
    assert record["before"]["stays"] > record["after"]["stays"]
    text = dict(lines(comparison, None))["stability"]
    assert f"{100 * record['after']['stays']:.1f} % stay right" in text
    unlabelled = Comparison(
        "a chain", Samples(samples.path, samples.inputs, None, False), before, after
    )
    assert unlabelled.stability is None


def watched() -> tuple[nn.Module, torch.Tensor, torch.Tensor]:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(20, 64), nn.Dropout(0.5), nn.ReLU(), nn.Linear(64, 3))
    return model, torch.randn(300, 20), torch.randint(3, (300,))


def test_a_pruner_logs_confidence_before_and_after_it_acts() -> None:
    model, x, y = watched()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    pruner = RMTPruner(model, optimizer, keep="rank:k=2", edge="bema", start=1, watch=(x, y))
    model.train()
    assert "cross_entropy" not in pruner.step().metrics
    with torch.no_grad():
        expected = nn.functional.cross_entropy(model.eval()(x), y)
    model.train()
    metrics = pruner.step().metrics
    assert model.training
    assert metrics["cross_entropy_before"] == pytest.approx(float(expected), rel=1e-5)
    with torch.no_grad():
        pruned = nn.functional.cross_entropy(model.eval()(x), y)
    assert metrics["cross_entropy"] == pytest.approx(float(pruned), rel=1e-5)
    assert metrics["cross_entropy"] != metrics["cross_entropy_before"]
    assert pruner.log[-1]["stays_right"] == metrics["stays_right"]


@pytest.mark.parametrize("classes", [torch.full((300,), 3), torch.zeros(299, dtype=torch.long)])
def test_class_numbers_that_do_not_fit_are_refused(classes: torch.Tensor) -> None:
    model, x, _ = watched()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    pruner = RMTPruner(model, optimizer, start=0, watch=(x, classes))
    with pytest.raises(UsageError, match=r"watch: .* do not fit class numbers"):
        pruner.step()
