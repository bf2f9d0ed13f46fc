from __future__ import annotations

import numpy as np
import pytest
from scipy.integrate import quad
from scipy.optimize import brentq

from rmtcli.edges import EDGES, EdgeEstimator, EdgeFit, Verdict
from rmtcli.edges.base import MIN_EIGENVALUES, central_window
from rmtcli.edges.bema import Bema
from rmtcli.spectra import spectrum
from tests.conftest import noise, planted, with_singular_values


def fitted(estimator: EdgeEstimator, w: np.ndarray) -> EdgeFit:
    return estimator.fit(spectrum(w), w)


def transcription(eigenvalues: np.ndarray, n: int, alpha: float, t: float) -> tuple[float, float]:
    """Ke, Ma and Lin (2023), algorithm 1, one quadrature and one root at a time; t is t₁₋β."""
    p = len(eigenvalues)
    g = p / n
    a, b = (1 - g**0.5) ** 2, (1 + g**0.5) ** 2

    def cdf(x: float) -> float:
        # x = a + … cos θ keeps the integrand smooth at both edges.
        end = np.arccos(np.clip(1 - 2 * (x - a) / (b - a), -1, 1))

        def f(theta: float) -> float:
            y = (a + b) / 2 - (b - a) / 2 * np.cos(theta)
            return ((b - a) / 2 * np.sin(theta)) ** 2 / (2 * np.pi * g * y) if y else 0.0

        return quad(f, 0, end)[0]

    total, weight = 0.0, 0.0
    for i in range(p):
        # Where αp is not whole, the window is rounded outwards on both sides alike.
        if np.floor(alpha * p) <= i < p - np.floor(alpha * p):
            q = brentq(lambda x, u=(i + 0.5) / p: cdf(x) - u, a, b)
            total, weight = total + q * eigenvalues[i], weight + q * q
    variance = total / weight
    margin = t * n ** (-2 / 3) * g ** (-1 / 6) * (1 + g**0.5) ** (4 / 3)
    return variance, variance * ((1 + g**0.5) ** 2 + margin)


@pytest.mark.parametrize("shape", [(60, 30), (50, 50), (25, 200)])
@pytest.mark.parametrize("alpha", [0.1, 0.2])
def test_agrees_with_a_transcription_of_the_paper(shape: tuple[int, int], alpha: float) -> None:
    w = planted(shape, 2, times=4, sigma=0.3)
    s = spectrum(w)
    fit = Bema(alpha=alpha, beta=0.1).fit(s, w)
    variance, edge = transcription(s.eigenvalues, s.n, alpha, 0.45014)
    assert fit.law.sigma**2 == pytest.approx(variance, rel=1e-6)  # quad's tolerance
    assert fit.edge == pytest.approx(edge, rel=1e-5)  # t to five digits


@pytest.mark.parametrize("shape", [(300, 100), (200, 200), (100, 800)])
def test_sigma_of_pure_noise_is_unbiased(shape: tuple[int, int]) -> None:
    """The offset of one half removes it: with i/p, as printed, the bias is up to 1.7 %."""
    fits = [fitted(Bema(), noise(shape, 0.5, seed)) for seed in range(40)]
    variances = np.array([fit.law.sigma**2 for fit in fits]) / 0.25
    # 1e-3 of bias, and three standard errors of the mean.
    assert abs(variances.mean() - 1) < 1e-3 + 3 * variances.std() / np.sqrt(len(variances))
    assert {fit.verdict for fit in fits} == {Verdict.FITS}


@pytest.mark.parametrize("seed", range(5))
def test_goodness_of_fit_of_pure_noise_is_small(seed: int) -> None:
    fit = fitted(Bema(), noise((400, 150), 2.0, seed))
    # Eigenvalues are rigid: a few times 1/p, here.
    assert 0.5 / 150 < fit.ks_distance < 4 / 150


def test_signal_in_the_window_is_reported() -> None:
    fit = fitted(Bema(alpha=0.2), planted((300, 200), 45, times=5))
    assert fit.verdict is Verdict.WIDE_SIGNAL
    # Further in, the estimate itself is carried off, and the edge above the spikes with it.
    fit = fitted(Bema(alpha=0.2), planted((300, 200), 80, times=5))
    assert fit.verdict is Verdict.POOR_FIT


def test_a_bulk_of_another_shape_is_reported() -> None:
    # Singular values on a geometric scale: no noise law has that bulk.
    w = with_singular_values(np.geomspace(1, 1e-4, 100))
    assert fitted(Bema(), w).verdict in (Verdict.POOR_FIT, Verdict.WIDE_SIGNAL)
    assert (
        fitted(Bema(), with_singular_values(np.linspace(1, 1.5, 100))).verdict is Verdict.POOR_FIT
    )


def test_too_few_singular_values_are_reported() -> None:
    few = noise((MIN_EIGENVALUES - 1, 100))
    assert fitted(Bema(), few).verdict is Verdict.TOO_SMALL
    enough = noise((MIN_EIGENVALUES, 100))
    assert fitted(Bema(), enough).verdict is not Verdict.TOO_SMALL


@pytest.mark.parametrize("name", sorted(EDGES.choices))
def test_an_exactly_low_rank_matrix_is_reported(name: str) -> None:
    rng = np.random.default_rng(0)
    w = rng.standard_normal((80, 5)) @ rng.standard_normal((5, 60))
    s = spectrum(w)
    fit = EDGES.parse(name).fit(s, w)
    assert fit.verdict is Verdict.LOW_RANK
    assert fit.law.sigma == 0
    assert s.count_above(fit.edge) == 5


@pytest.mark.parametrize("p", [1, 2, 3, 10, 11])
@pytest.mark.parametrize("alpha", [0.0, 0.2, 0.49])
def test_the_window_is_central_and_never_empty(p: int, alpha: float) -> None:
    window = central_window(p, alpha)
    assert window.stop - window.start >= 1
    assert window.start == p - window.stop


@pytest.mark.parametrize(
    "options", ["alpha=0.5", "alpha=-0.1", "beta=0", "beta=1", "max_distance=0", "max_distance=2"]
)
def test_options_out_of_range_are_refused(options: str) -> None:
    key, value = options.split("=")
    with pytest.raises(ValueError, match=key):
        Bema(**{key: float(value)})
