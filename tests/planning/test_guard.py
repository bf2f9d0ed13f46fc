from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from rmtcli.planning import (
    Drop,
    Range,
    paired_drop,
    rise_of_perplexity,
    score_drop,
    smallest,
)

PASS, FAIL = Drop(0.0, 0.0), Drop(1.0, 0.0)


@given(st.integers(10, 10**6), st.floats(0, 1), st.floats(0, 1))
def test_the_smallest_size_that_passes_is_chosen(high: int, share: float, guess: float) -> None:
    low = max(1, high // 100)
    needed, start = (low + round(x * (high - low)) for x in (share, guess))
    chosen = smallest(Range(low, start, high), lambda n: PASS if n >= needed else FAIL, 0.5)
    size = None if chosen is None else chosen[0]
    if needed == high:
        assert size is None
    else:
        # Within the resolution of the search, or dense if that is too close.
        assert size is None or needed <= size < high
        assert (size or high) <= needed * 1.005 + 2


def test_drops_of_all_sizes_are_made_monotone() -> None:
    # A smaller network seems to lose less: both get what they lose on average.
    drops = {100: 0.9, 200: 0.2, 400: 0.4}
    chosen = smallest(Range(100, 400, 800), lambda n: Drop(drops.get(n, 0.9), 0.01), 0.5)
    assert chosen is not None
    assert chosen[0] == 200
    assert chosen[1].drop == pytest.approx(0.3)
    assert smallest(Range(100, 400, 800), lambda n: Drop(drops.get(n, 0.9), 0.01), 0.2) is None


def test_a_search_makes_few_measurements() -> None:
    calls: list[int] = []

    def measure(n: int) -> Drop:
        calls.append(n)
        return PASS if n >= 5_000 else FAIL

    smallest(Range(10, 4_000, 10**9), measure, 0.5)
    assert len(calls) <= 10  # two to enclose it, then halvings of a factor of two
    calls.clear()
    smallest(Range(10, 10**8, 10**9), measure, 0.5)
    assert len(calls) <= 26


def test_confidence_is_right_as_often_as_it_says() -> None:
    """Two networks, right on 90 % and 89 % of all samples, that differ on 3 %."""
    rng = np.random.default_rng(0)
    inside = []
    for _ in range(600):
        kind = rng.choice(4, size=3000, p=[0.88, 0.02, 0.01, 0.09])
        before, after = (kind == 0) | (kind == 1), (kind == 0) | (kind == 2)
        inside.append(paired_drop(before, after).confidence(1.0) >= 0.9)
    # The true drop is 1 point: 90 % confidence in at most 1 point may occur in 10 % of all cases.
    assert np.mean(inside) <= 0.1 + 3 * np.sqrt(0.09 / 600)
    assert np.mean(inside) >= 0.05


def test_equal_results_on_few_samples_are_not_certainty() -> None:
    right = np.ones(20, dtype=bool)
    pair = paired_drop(right, right)
    assert pair.drop == 0
    assert pair.confidence(0.5) < 0.6
    many = np.ones(20_000, dtype=bool)
    assert paired_drop(many, many).confidence(0.5) > 0.999


@pytest.mark.parametrize("lost", [0, 5, 50])
def test_the_drop_is_the_difference_of_the_accuracies(lost: int) -> None:
    before, after = np.ones(100, dtype=bool), np.ones(100, dtype=bool)
    after[:lost] = False
    assert paired_drop(before, after).drop == pytest.approx(lost)


def _texts(rng: np.random.Generator, count: int) -> tuple[np.ndarray, np.ndarray]:
    """Texts whose tokens get less likely by 0.01 nats on average, each text in its own way."""
    lengths = rng.integers(20, 200, count).astype(float)
    before = np.stack([3 * lengths, lengths], axis=1)
    more = lengths * (0.01 + 0.05 * rng.standard_normal(count))
    return before, np.stack([before[:, 0] + more, lengths], axis=1)


def test_perplexity_rises_by_as_much_as_it_does() -> None:
    before, after = _texts(np.random.default_rng(0), 50)
    ratio = np.exp((after[:, 0] - before[:, 0]).sum() / before[:, 1].sum())
    assert rise_of_perplexity(before, after).drop == pytest.approx(100 * (ratio - 1))
    assert rise_of_perplexity(before, before) == Drop(0.0, 0.0)
    assert not rise_of_perplexity(before[:1], after[:1]).within(50.0)


def test_the_error_of_a_perplexity_is_that_between_texts() -> None:
    rng = np.random.default_rng(0)
    drops = [rise_of_perplexity(*_texts(rng, 100)) for _ in range(400)]
    spread = np.std([drop.drop for drop in drops])
    assert spread < np.mean([drop.error for drop in drops]) < 2 * spread
    # The true rise is at the limit: 90 % confidence may occur in 10 % of all cases.
    assert np.mean([drop.within(100 * np.expm1(0.01)) for drop in drops]) <= 0.1


def test_scores_of_samples_have_an_error_and_their_own_units() -> None:
    rng = np.random.default_rng(0)
    before = rng.uniform(5, 9, 400)
    after = before - 0.02 + 0.1 * rng.standard_normal(400)
    drop = score_drop(before, after)
    assert drop.drop == pytest.approx(before.mean() - after.mean())
    assert 0.005 < drop.error < 0.01
    assert drop.within(0.05)
    assert not score_drop(before[:1], after[:1]).within(0.05)
