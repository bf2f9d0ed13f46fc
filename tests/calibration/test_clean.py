"""Cleaned moments: the eigenvalues of sample moments, and how many samples they are worth."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from rmtcli.calibration import CLEANERS, Moments, clean_moments
from rmtcli.calibration.spread import Spread, joined
from rmtcli.calibration.symmetric import half

NAMES = sorted(CLEANERS.choices)
VALUES = arrays(np.float64, st.integers(1, 12), elements=st.floats(0, 1e3)).map(np.sort)


@pytest.mark.parametrize("name", NAMES)
@given(values=VALUES, samples=st.floats(0.5, 1e6))
def test_cleaned_eigenvalues_keep_sum_and_order(
    name: str, values: np.ndarray, samples: float
) -> None:
    cleaned = CLEANERS.parse(name).clean(values, samples)
    scale = values.sum() + 1e-300
    assert cleaned.sum() == pytest.approx(values.sum(), rel=1e-9, abs=1e-12)
    assert (cleaned >= -1e-12 * scale).all()
    assert (np.diff(cleaned) >= -1e-9 * scale).all()
    assert cleaned[0] >= values[0] - 1e-9 * scale  # the smallest is never lowered


@pytest.mark.parametrize("name", NAMES)
def test_with_many_samples_nothing_changes(name: str) -> None:
    values = np.arange(1.0, 20.0)
    np.testing.assert_allclose(CLEANERS.parse(name).clean(values, 1e12), values, rtol=1e-9)


@pytest.mark.parametrize("name", ["linear", "oas"])
def test_a_planted_covariance_is_estimated_better_than_by_the_sample_moment(name: str) -> None:
    variances = np.geomspace(0.05, 5, 40)
    raw, cleaned = 0.0, 0.0
    for seed in range(20):
        x = np.random.default_rng(seed).standard_normal((30, 40)) * np.sqrt(variances)
        m = Moments(30, 30, np.zeros(40), x.T @ x / 30, None, independent=30.0)
        made = clean_moments({"a": m}, CLEANERS.parse(name))["a"].second
        raw += float(np.sum((m.second - np.diag(variances)) ** 2))
        cleaned += float(np.sum((made - np.diag(variances)) ** 2))
    assert cleaned < 0.9 * raw


def test_vectors_mean_and_shared_arrays_stay() -> None:
    rng = np.random.default_rng(0)
    x, g = rng.standard_normal((9, 6)) + 3, rng.standard_normal((9, 4))
    a = Moments(9, 9, x.mean(0), x.T @ x / 9, g.T @ g / 9, False, 9.0, 5.0)
    b = Moments(9, 9, a.mean, a.second, None, False, 9.0)
    made = clean_moments({"a": a, "b": b}, CLEANERS.parse("linear"))
    assert made["a"].second is made["b"].second
    assert made["a"].mean is a.mean
    new, old = made["a"].covariance, a.covariance
    np.testing.assert_allclose(new @ old, old @ new, atol=1e-12)  # the vectors are the same
    assert np.trace(new) == pytest.approx(np.trace(old))
    assert np.linalg.eigvalsh(new)[0] > np.linalg.eigvalsh(old)[0]


def test_moments_of_unknown_samples_stay_as_they_are() -> None:
    m = Moments(9, 9, np.zeros(3), np.diag([1.0, 2, 3]), np.eye(2))
    made = clean_moments({"a": m}, CLEANERS.parse("linear"))["a"]
    assert made.second is m.second
    assert made.gradient is m.gradient


def worth(rows: np.ndarray, batches: int, *, centred: bool = True) -> float:
    spread = Spread(centred=centred)
    for x in np.array_split(rows, batches):
        spread.add(len(x), x.sum(0), half(x.T @ x))
    assert spread.independent is not None
    return spread.independent


def test_independent_rows_count_once_each_and_repeated_ones_do_not() -> None:
    x = np.random.default_rng(0).standard_normal((2000, 30)) * np.linspace(0.2, 2, 30)
    assert worth(x, 40) == pytest.approx(2000, rel=0.1)
    assert worth(np.repeat(x, 5, axis=0), 40) == pytest.approx(2000, rel=0.1)
    # A large mean adds no noise to what is left without it.
    assert worth(x + 50, 40) == pytest.approx(2000, rel=0.15)


def test_one_batch_says_nothing() -> None:
    spread = Spread(centred=False)
    assert spread.independent is None
    spread.add(3, np.ones(2), half(np.eye(2)))
    assert spread.independent is None


def test_a_mean_of_moments_of_the_same_samples_is_worth_no_more_than_they_are() -> None:
    assert joined([0.5, 0.5], [100.0, 100.0]) == pytest.approx(100)
    assert joined([0.5, 0.5], [100.0, None]) is None
