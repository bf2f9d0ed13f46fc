from __future__ import annotations

import numpy as np
import pytest

from rmtcli.edges.bema import Bema
from rmtcli.edges.judge import ks_distance
from rmtcli.edges.median import median_variance
from rmtcli.law.fluctuations import _cosines, fit_p_value, quantile_error, window_error
from rmtcli.law.marchenko_pastur import MarchenkoPastur
from rmtcli.spectra import spectrum

DRAWS = 300


@pytest.mark.parametrize(("n", "p"), [(100, 100), (400, 100)])
def test_standard_errors_and_p_values_are_those_of_simulated_noise(n: int, p: int) -> None:
    rng = np.random.default_rng(0)
    windows, medians, p_values = [], [], []
    for _ in range(DRAWS):
        s = spectrum(rng.standard_normal((n, p)))
        sigma, _ = Bema().sigma(s)
        windows.append(sigma)
        medians.append(median_variance(s) ** 0.5)
        p_values.append(fit_p_value(ks_distance(s, MarchenkoPastur(p / n, sigma), 0.2), p))
    # A deviation from 300 draws has a relative error of 4 %: three of them, and 3 % for the size.
    assert np.std(windows) == pytest.approx(window_error(p / n, p, 0.2), rel=0.15)
    assert np.std(medians) == pytest.approx(quantile_error(p / n, p, 0.5), rel=0.2)
    for level in (0.1, 0.5, 0.9):
        share = np.mean(np.array(p_values) < level)
        # Three binomial deviations, and 0.05 for the fitted formula.
        assert abs(share - level) < 3 * np.sqrt(level * (1 - level) / DRAWS) + 0.05


def test_the_error_over_the_whole_spectrum_is_that_of_the_sum_of_squares() -> None:
    """Σ λ² has variance ½ Σ k cₖ²; with all of h = ½ x² that is a polynomial of degree two."""
    g, p = 0.5, 200
    first, second = 2 * (1 + g) * np.sqrt(g), g  # Chebyshev coefficients of ½ (1 + g + 2√g cos)²
    variance = (first**2 + 2 * second**2) / 2
    expected = np.sqrt(variance) / (p * (1 + g)) / 2  # the mean of x² is 1 + g
    assert window_error(g, p, 0.0) == pytest.approx(expected, rel=1e-3)


def test_a_perfect_fit_is_no_evidence() -> None:
    assert fit_p_value(0.0, 100) == 1.0
    assert fit_p_value(0.5, 100) < 1e-12


def test_the_coefficients_of_a_polynomial_are_recovered() -> None:
    theta = (np.arange(64) + 0.5) * np.pi / 64
    made = {1: 2.0, 7: -0.5, 40: 0.25}
    coefficients = _cosines(sum(c * np.cos(k * theta) for k, c in made.items()))
    assert len(coefficients) == 64
    assert coefficients == pytest.approx([made.get(k, 0.0) for k in range(64)], abs=1e-12)


@pytest.mark.parametrize("p", [1, 2, 20, 1000])
def test_p_values_are_log_normal_about_the_simulated_median(p: int) -> None:
    """Half at the median 0.245 + 0.389 ln p of p D; its logarithm's deviation is 0.31 over it."""
    median = 0.245 + 0.389 * np.log(max(p, 2))
    assert fit_p_value(median / p, p) == pytest.approx(0.5, rel=1e-9)
    above, below = (median / p * np.exp(sign * 0.31 / median) for sign in (1, -1))
    assert fit_p_value(above, p) == pytest.approx(0.15865525, rel=1e-6)
    assert fit_p_value(below, p) == pytest.approx(0.84134475, rel=1e-6)


def test_one_eigenvalue_scatters_as_orourke_says() -> None:
    law = MarchenkoPastur(0.5)
    for p, level in [(100, 0.5), (1, 0.3)]:
        quantile = float(law.ppf(level))
        scatter = np.sqrt(np.log(max(p, 2)) + 0.7) / (np.pi * p * float(law.pdf(quantile)))
        # Relative to sigma, half of the relative error of an eigenvalue.
        expected = scatter / quantile / 2
        assert quantile_error(0.5, p, level) == pytest.approx(expected, rel=1e-12)
