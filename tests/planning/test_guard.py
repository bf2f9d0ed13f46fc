from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from rmtcli.planning import Range, paired_drop, smallest


@given(st.integers(10, 10**6), st.floats(0, 1), st.floats(0, 1))
def test_the_smallest_size_that_passes_is_found(high: int, share: float, guess: float) -> None:
    low = max(1, high // 100)
    needed, start = (low + round(x * (high - low)) for x in (share, guess))
    size = smallest(Range(low, start, high), lambda n: n >= needed, lambda n: n >= needed)
    if needed == high:
        assert size is None
    else:
        # Within the resolution of the search, or dense if that is too close.
        assert size is None or needed <= size < high
        assert (size or high) <= needed * 1.005 + 2


def test_a_size_grows_until_fresh_samples_confirm_it() -> None:
    lucky = smallest(Range(100, 900, 10_000), lambda n: n >= 500, lambda n: n >= 2000)
    assert lucky is not None
    assert 2000 <= lucky <= 2000 * 1.15 + 1
    assert smallest(Range(100, 90, 10_000), lambda n: n >= 500, lambda n: False) is None


def test_a_search_makes_few_measurements() -> None:
    calls: list[int] = []

    def passes(n: int) -> bool:
        calls.append(n)
        return n >= 5_000

    smallest(Range(10, 4_000, 10**9), passes, lambda n: True)
    assert len(calls) <= 10  # two to enclose it, then halvings of a factor of two
    calls.clear()
    smallest(Range(10, 10**8, 10**9), passes, lambda n: True)
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
