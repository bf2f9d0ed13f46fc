from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.polynomial import chebyshev
from scipy.integrate import trapezoid
from scipy.special import airy

from rmtcli.law import tracy_widom
from rmtcli.law.marchenko_pastur import MarchenkoPastur

#: Quantiles of the real law as tabulated (Johnstone, 2001; Bejan, 2005), to four digits.
TABLE = {
    0.5: -1.2686,
    0.8: -0.1653,
    0.9: 0.4501,
    0.95: 0.9793,
    0.975: 1.4538,
    0.99: 2.0234,
    0.995: 2.4223,
    0.999: 3.2722,
}


@pytest.mark.parametrize(("u", "expected"), TABLE.items())
def test_quantiles_agree_with_the_published_table(u: float, expected: float) -> None:
    assert tracy_widom.quantile(u) == pytest.approx(expected, abs=6e-5)


def determinant(s: float, nodes: int = 32, end: float = 16.0) -> float:
    """F₁(s) = det(1 − V) on L²(s, ∞), V(x, y) = ½ Ai((x + y)/2), by Gauss–Legendre quadrature."""
    at, weights = np.polynomial.legendre.leggauss(nodes)
    x, root = s + (at + 1) / 2 * (end - s), np.sqrt(weights / 2 * (end - s))
    kernel = airy((x[:, None] + x) / 2)[0] / 2 * root[:, None] * root
    return float(np.linalg.det(np.eye(nodes) - kernel))


def test_the_table_holds_the_determinant() -> None:
    s = np.linspace(-10.5, 13.5, 97)
    expected = np.array([determinant(x) for x in s])
    np.testing.assert_allclose(tracy_widom.cdf(s), expected, rtol=0, atol=1e-13)
    tail = s >= tracy_widom.MIDDLE
    np.testing.assert_allclose(
        tracy_widom.survival(s[tail]), 1 - expected[tail], rtol=0, atol=1e-14
    )
    assert tracy_widom.survival(-1.0) == pytest.approx(1 - determinant(-1.0), abs=1e-13)


def test_the_tables_coefficients_are_the_determinants() -> None:
    low, high = tracy_widom.MIDDLE, tracy_widom.HIGH
    again = chebyshev.chebinterpolate(
        np.vectorize(lambda t: 1 - determinant((t + 1) / 2 * (high - low) + low)), 60
    )
    np.testing.assert_allclose(tracy_widom._ABOVE, again[:37], rtol=0, atol=1e-15)


@given(st.floats(1e-6, 1 - 1e-6))
def test_quantile_undoes_cdf(u: float) -> None:
    assert tracy_widom.cdf(tracy_widom.quantile(u)) == pytest.approx(u, abs=1e-10)


def test_cdf_rises_from_zero_to_one() -> None:
    values = [tracy_widom.cdf(s) for s in np.linspace(-20, 20, 81)]
    assert values[0] == 0
    assert values[-1] == 1
    assert (np.diff(values) >= -1e-12).all()


def test_moments_are_the_known_ones() -> None:
    s = np.linspace(-10, 8, 901)
    cdf = np.array([tracy_widom.cdf(x) for x in s])
    density = np.gradient(cdf, s)
    mean = trapezoid(s * density, s)
    # Mean −1.2065335745820 and variance 1.607781034581 (Bornemann, 2010, table 4); the grid of
    # step 0.02 costs about its square.
    assert mean == pytest.approx(-1.2065335745820, abs=1e-3)
    assert trapezoid((s - mean) ** 2 * density, s) == pytest.approx(1.607781034581, abs=1e-3)


@pytest.mark.parametrize("u", [0.0, 1.0, -1.0, float("nan")])
def test_impossible_probabilities_are_refused(u: float) -> None:
    with pytest.raises(ValueError, match="probability"):
        tracy_widom.quantile(u)


@pytest.mark.parametrize("shape", [(400, 100), (200, 200)])
def test_edge_is_passed_by_pure_noise_with_chance_beta(shape: tuple[int, int]) -> None:
    n, p = shape
    rng = np.random.default_rng(11)
    largest = []
    for _ in range(300):
        w = rng.standard_normal(shape)
        largest.append(np.linalg.norm(w, 2) ** 2 / n)
    law = MarchenkoPastur(p / n)
    edge = law.lambda_plus + tracy_widom.quantile(0.9) * tracy_widom.scale(law, p)
    rate = np.mean(np.array(largest) > edge)
    # Three binomial deviations of 300 draws at 0.1, and 0.02 for the finite size.
    assert abs(rate - 0.1) < 3 * np.sqrt(0.09 / 300) + 0.02
