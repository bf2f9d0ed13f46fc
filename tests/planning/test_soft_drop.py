from __future__ import annotations

import numpy as np
import pytest

from rmtcli.planning import Margins, paired_drop, soft_drop
from rmtcli.planning.soft_drop import RATIO, expected_loss


def _drawn(rng: np.random.Generator, count: int) -> tuple[Margins, np.ndarray]:
    """Margins of samples, and movements that grow with the margins."""
    own = 3 * rng.exponential(size=count)
    moved = 0.3 * (1 + own) * rng.standard_normal(count)
    return Margins(own, np.tanh(own / 2)), moved


def _pair(rng: np.random.Generator, count: int, ratio: float) -> tuple:
    """Two networks; where they differ, ``ratio`` times the stakes are lost on average."""
    dense, moved = _drawn(rng, count)
    right = rng.random(count) < (1 + np.minimum(ratio * dense.stakes, 1)) / 2
    changed = moved > dense.own
    return np.where(changed, right, True), np.where(changed, ~right, True), dense, moved


def test_the_expected_loss_is_that_of_the_definition() -> None:
    dense, moved = _drawn(np.random.default_rng(0), 40)  # fewer than count as similar
    scale = np.abs(moved).mean()
    jumps, needed = moved / scale, dense.own / scale
    changes = [np.mean([jump > need for jump in jumps]) for need in needed]
    mean, influence = expected_loss(dense, moved)
    assert mean == pytest.approx(np.mean(dense.stakes * changes))
    assert influence.mean() == pytest.approx(0, abs=1e-12)


def test_the_expected_loss_varies_less_than_the_losses_of_single_samples() -> None:
    rng = np.random.default_rng(0)
    drawn = [_drawn(rng, 1000) for _ in range(200)]
    pooled, influences = zip(*(expected_loss(*each) for each in drawn), strict=True)
    single = [np.mean(dense.stakes * (moved > dense.own)) for dense, moved in drawn]
    assert np.std(pooled) < 0.75 * np.std(single)
    assert np.mean(pooled) == pytest.approx(np.mean(single), rel=0.1)
    error = np.mean([np.linalg.norm(each) / len(each) for each in influences])
    assert error == pytest.approx(np.std(pooled), rel=0.2)


@pytest.mark.parametrize("ratio", [1.0, 2.5])
def test_the_soft_drop_is_corrected_by_the_labels(ratio: float) -> None:
    rng = np.random.default_rng(0)
    many = _pair(rng, 200_000, ratio)
    hard = paired_drop(*many[:2]).drop
    assert soft_drop(*many).drop == pytest.approx(hard, rel=0.1)
    few = [_pair(rng, 1000, ratio) for _ in range(200)]
    drops = [soft_drop(*each) for each in few]
    spread = np.std([drop.drop for drop in drops])
    assert spread < 0.75 * np.std([paired_drop(*each[:2]).drop for each in few])
    assert np.mean([drop.error for drop in drops]) > spread


def test_the_confidence_in_a_soft_drop_is_not_too_large() -> None:
    rng = np.random.default_rng(0)
    limit = soft_drop(*_pair(rng, 200_000, RATIO)).drop
    confidences = [soft_drop(*_pair(rng, 1000, RATIO)).confidence(limit) for _ in range(300)]
    # The drop is at the limit: a confidence of 90 % may occur in 10 % of all cases.
    assert np.mean(np.array(confidences) >= 0.9) <= 0.1


@pytest.mark.parametrize("count", [1, 20, 20_000])
def test_equal_outputs_on_few_samples_are_not_certainty(count: int) -> None:
    right, dense = np.ones(count, dtype=bool), _drawn(np.random.default_rng(0), count)[0]
    drop = soft_drop(right, right, dense, np.zeros(count))
    assert drop.drop == 0
    assert drop.within(0.5) == (count > 1000)


def test_the_unit_of_the_scores_does_not_matter() -> None:
    before, after, dense, moved = _pair(np.random.default_rng(0), 500, 1.5)
    small = soft_drop(before, after, Margins(1e-3 * dense.own, dense.stakes), 1e-3 * moved)
    assert small.drop == pytest.approx(soft_drop(before, after, dense, moved).drop)
