from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.integrate import quad

from rmtcli.law.marchenko_pastur import MarchenkoPastur

#: Between the last two, the density rises too steeply at 0 for the quadrature to follow.
GAMMAS = st.floats(0.02, 0.98) | st.just(1.0)
SIGMAS = st.floats(1e-3, 1e3)


def integrate(law: MarchenkoPastur, weight, upper: float | None = None) -> float:
    """∫ weight(x) pdf(x) dx, with x = centre − radius cos θ so that both edges are smooth."""
    centre = (law.lambda_plus + law.lambda_minus) / 2
    radius = (law.lambda_plus - law.lambda_minus) / 2
    end = np.pi if upper is None else np.arccos(np.clip((centre - upper) / radius, -1, 1))

    def integrand(theta: float) -> float:
        x = centre - radius * np.cos(theta)
        return float(weight(x) * law.pdf(x) * radius * np.sin(theta)) if theta else 0.0

    return quad(integrand, 0, end, limit=200)[0]


@given(GAMMAS, SIGMAS)
def test_pdf_has_mass_one_mean_sigma_squared_and_its_variance(gamma: float, sigma: float) -> None:
    law = MarchenkoPastur(gamma, sigma)
    # quad's own error is about 1e-8 of the integral.
    assert integrate(law, lambda x: 1.0) == pytest.approx(1, abs=1e-6)
    mean = integrate(law, lambda x: x)
    assert mean == pytest.approx(law.mean, rel=1e-6)
    assert mean == pytest.approx(sigma**2, rel=1e-6)
    second = integrate(law, lambda x: x**2)
    assert second - mean**2 == pytest.approx(law.variance, rel=1e-4)


@given(GAMMAS, SIGMAS, st.floats(0.01, 0.99))
def test_cdf_is_the_integral_of_the_pdf(gamma: float, sigma: float, share: float) -> None:
    law = MarchenkoPastur(gamma, sigma)
    x = law.lambda_minus + share * (law.lambda_plus - law.lambda_minus)
    assert law.cdf(x) == pytest.approx(integrate(law, lambda _: 1.0, upper=x), abs=1e-7)


@given(GAMMAS, SIGMAS)
def test_ppf_undoes_cdf(gamma: float, sigma: float) -> None:
    law = MarchenkoPastur(gamma, sigma)
    u = np.linspace(0, 1, 41)
    x = law.ppf(u)
    # The closed form loses eps/gamma to cancellation; at an edge arcsin keeps half of the digits,
    # √(2 eps) (1 − gamma)/(2π gamma).
    atol = (1e-12 + 4e-9 * (1 - gamma)) / gamma
    np.testing.assert_allclose(law.cdf(x), u, atol=atol)
    assert (np.diff(x) > 0).all()
    assert x[0] == pytest.approx(law.lambda_minus, rel=1e-12, abs=1e-300)
    assert x[-1] == pytest.approx(law.lambda_plus, rel=1e-12)


@pytest.mark.parametrize("gamma", [0.1, 0.5, 1.0])
def test_the_density_is_zero_outside_the_bulk(gamma: float) -> None:
    law = MarchenkoPastur(gamma, 2.0)
    below, above = law.lambda_minus - 1e-6, law.lambda_plus + 1e-6
    np.testing.assert_array_equal(law.pdf([below, above, -1.0]), 0)
    assert law.pdf(0.0) == (np.inf if gamma == 1 else 0)
    # A cdf that falls back to 0 above the edge is a known error of public code.
    np.testing.assert_array_equal(law.cdf([below, above, 1e9]), [0, 1, 1])


def test_square_matrices_have_a_pole_at_zero() -> None:
    law = MarchenkoPastur(1.0)
    assert law.pdf(0.0) == np.inf
    assert law.cdf(0.0) == 0
    assert law.lambda_minus == 0


@pytest.mark.parametrize("gamma", [1.0, 0.5, 0.2])
def test_eigenvalues_of_noise_follow_the_law(gamma: float) -> None:
    p, n = 400, int(400 / gamma)
    w = np.random.default_rng(5).standard_normal((n, p))
    eigenvalues = np.linalg.eigvalsh(w.T @ w / n)
    fitted = MarchenkoPastur(gamma).cdf(eigenvalues)
    # Eigenvalues repel, so their empirical law is within a few 1/p of the limit.
    assert np.max(np.abs(fitted - (np.arange(p) + 0.5) / p)) < 5 / p


def test_no_noise_is_a_point_mass_at_zero() -> None:
    law = MarchenkoPastur(0.5, 0.0)
    np.testing.assert_array_equal(law.cdf([-1.0, 0.0, 1.0]), [0, 1, 1])
    np.testing.assert_array_equal(law.ppf([0.1, 0.9]), 0)
    with pytest.raises(ValueError, match="no density"):
        law.pdf(1.0)


@pytest.mark.parametrize(
    ("gamma", "sigma"), [(0, 1), (1.1, 1), (np.nan, 1), (0.5, -1), (1, np.inf)]
)
def test_impossible_laws_are_refused(gamma: float, sigma: float) -> None:
    wrong = "sigma must be finite" if 0 < gamma <= 1 else r"gamma must be in \(0, 1\]"
    with pytest.raises(ValueError, match=f"^{wrong}"):
        MarchenkoPastur(gamma, sigma)


@pytest.mark.parametrize("u", [-0.1, 1.1, np.nan])
def test_quantiles_of_no_probability_are_refused(u: float) -> None:
    with pytest.raises(ValueError, match="probabilities"):
        MarchenkoPastur(0.5).ppf(u)
