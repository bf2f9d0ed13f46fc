from __future__ import annotations

import itertools
import math
from collections import Counter
from fractions import Fraction

import numpy as np
import pytest
from scipy.stats import kstest, norm

from rmtcli.law.porter_thomas import FEWEST, moments, p_values


@pytest.mark.parametrize("m", [3, 10, 300, 100_000])
def test_moments_are_those_of_unit_vectors(m: int) -> None:
    mean, deviation, skewness = moments(m)
    assert mean == pytest.approx(3 / (m + 2), rel=1e-12)
    # Var Σ uᵢ⁴ = 24 (m − 1)/((m + 2)² (m + 4)(m + 6)), from the Dirichlet moments by hand.
    assert deviation == pytest.approx(
        np.sqrt(24 * (m - 1) / (m + 4) / (m + 6)) / (m + 2), rel=1e-3 if m > 1e4 else 1e-9
    )
    if m > 1e4:  # the statistic becomes a mean of m values, of skewness 6√6 (Anscombe and Glynn)
        assert skewness == pytest.approx(6 * np.sqrt(6 / m), rel=1e-3)


@pytest.mark.parametrize("m", [16, 100, 1000])
def test_p_values_of_random_directions_are_uniform(m: int) -> None:
    draws = 4000
    p = p_values(np.random.default_rng(0).standard_normal((m, draws)))
    # The transformation is not exact: 0.01 off at most in 200,000 draws of any of these sizes.
    # The rest is the 1 in 1,000 point of a Kolmogorov–Smirnov test.
    assert kstest(p, "uniform").statistic < 0.01 + 1.95 / np.sqrt(draws)
    for level in (0.05, 0.01):
        error = np.sqrt(level / draws)
        assert abs(np.mean(p < level) - level) < 0.4 * level + 3 * error


def test_vectors_of_the_largest_noise_eigenvalues_pass_and_of_any_scale() -> None:
    rng = np.random.default_rng(1)
    parts = []
    for _ in range(60):
        w = rng.uniform(-1, 1, (120, 80))
        parts.append(p_values(np.linalg.svd(w)[2][:3].T * 1e200))
    p = np.concatenate(parts)
    # 180 values: a share of 0.05 scatters by 0.016.
    assert 0.001 < np.mean(p < 0.05) < 0.1


def test_few_large_entries_and_equal_entries_are_rejected() -> None:
    m = 400
    vectors = np.random.default_rng(2).standard_normal((m, 3))
    vectors[0, 0] = 10.0  # one entry as large as 10 deviations
    vectors[:, 1] = np.sign(vectors[:, 1])
    vectors[m // 2 :, 2] = 0.0
    assert (p_values(vectors) < 1e-3).all()
    one = np.zeros((m, 1))
    one[7] = -2.0
    assert p_values(one)[0] < 1e-12


def test_only_kurtosis_counts_and_short_vectors_are_not_judged() -> None:
    vectors = np.random.default_rng(3).standard_normal((50, 4))
    assert p_values(-vectors[::-1]) == pytest.approx(p_values(vectors), rel=1e-9)
    assert p_values(vectors[: FEWEST - 1]).tolist() == [1.0] * 4
    assert p_values(np.ones((50, 0))).shape == (0,)


def rising(a: Fraction, k: int) -> Fraction:
    return math.prod((a + i for i in range(k)), start=Fraction(1))


@pytest.mark.parametrize("m", [2, 3, 5])
def test_moments_are_sums_over_all_indices(m: int) -> None:
    """E (Σ dᵢ²)ᵏ term by term, in fractions."""

    def raw(k: int) -> Fraction:
        total = Fraction(0)
        for indices in itertools.product(range(m), repeat=k):
            powers = [2 * times for times in Counter(indices).values()]
            total += math.prod(rising(Fraction(1, 2), power) for power in powers)
        return total / rising(Fraction(m, 2), 2 * k)

    mean, variance = raw(1), raw(2) - raw(1) ** 2
    third = raw(3) - 3 * mean * variance - mean**3
    expected = float(mean), float(variance) ** 0.5, float(third) / float(variance) ** 1.5
    assert moments(m) == pytest.approx(expected, rel=1e-9)


@pytest.mark.parametrize("m", [FEWEST, 40, 500])
def test_p_values_agree_with_anscombe_and_glynn(m: int) -> None:
    vectors = np.random.default_rng(m).standard_normal((m, 3))
    mean, deviation, skewness = moments(m)
    unit = vectors / np.linalg.norm(vectors, axis=0)
    x = (np.sum(unit**4, axis=0) - mean) / deviation
    a = 6 + 8 / skewness * (2 / skewness + np.sqrt(1 + 4 / skewness**2))
    cubed = (1 - 2 / a) / (1 + x * np.sqrt(2 / (a - 4)))
    z = (1 - 2 / (9 * a) - np.cbrt(cubed)) / np.sqrt(2 / (9 * a))
    assert p_values(vectors) == pytest.approx(2 * norm.sf(np.abs(z)), rel=1e-9)
