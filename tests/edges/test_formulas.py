"""Fits of the estimators, compared with their formulas written out."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.optimize import brentq
from scipy.stats import gamma as gamma_law

from rmtcli.edges import EDGES, EdgeFit, Verdict
from rmtcli.edges.base import Noise
from rmtcli.edges.judge import ks_distance, without
from rmtcli.edges.kritchman_nadler import noise_variance
from rmtcli.edges.median import median_variance
from rmtcli.edges.truncated import follow
from rmtcli.edges.variances import dyson_variances, excess_kurtosis
from rmtcli.law import tracy_widom
from rmtcli.law.fluctuations import quantile_error, window_error
from rmtcli.law.marchenko_pastur import MarchenkoPastur
from rmtcli.law.separable import Separable, one_sided_edge
from rmtcli.noise import NOISES
from rmtcli.noise import planted as drawn
from rmtcli.spectra import Spectrum, spectrum
from tests.conftest import noise, planted

SHAPE = (200, 90)


def fitted(name: str, w: np.ndarray) -> tuple[Spectrum, EdgeFit]:
    s = spectrum(w)
    return s, EDGES.parse(name).fit(s, w)


def distance(s: Spectrum, sigma: float, removed: int, alpha: float = 0.2) -> float:
    bulk = without(s, removed)
    return ks_distance(bulk, MarchenkoPastur(bulk.gamma, sigma), alpha)


def test_median() -> None:
    s, fit = fitted("median:beta=0.05", planted(SHAPE, 3, times=3))
    sigma = np.sqrt(np.median(s.eigenvalues) / MarchenkoPastur(0.45).ppf(0.5))
    assert fit.law.sigma == pytest.approx(sigma, rel=1e-12)
    assert fit.sigma_error == pytest.approx(sigma * quantile_error(0.45, 90, 0.5), rel=1e-12)
    assert fit.edge == pytest.approx(Noise.of(fit.law, 90).edge(0.05), rel=1e-12)
    assert fit.ks_distance == pytest.approx(distance(s, sigma, 0), rel=1e-12)


@pytest.mark.parametrize("refits", [0, 1, 20])
def test_bema(refits: int) -> None:
    w = planted(SHAPE, 12, times=2)
    s, fit = fitted(f"bema:refits={refits},alpha=0.1,beta=0.05", w)
    first = s.count_above(fitted("bema:alpha=0.1,beta=0.05", w)[1].edge)
    assert first < 12
    removed = {0: 0, 1: first, 20: 12}[refits]
    bulk = without(s, removed)
    window = slice(int(0.1 * bulk.p), bulk.p - int(0.1 * bulk.p))
    q = MarchenkoPastur(bulk.gamma).ppf((np.arange(bulk.p) + 0.5) / bulk.p)[window]
    sigma = np.sqrt(q @ bulk.eigenvalues[window] / (q @ q))
    assert fit.law.sigma == pytest.approx(sigma, rel=1e-12)
    error = sigma * window_error(bulk.gamma, bulk.p, 0.1)
    assert fit.sigma_error == pytest.approx(error, rel=1e-12)
    assert fit.ks_distance == pytest.approx(distance(s, sigma, removed, 0.1), rel=1e-12)
    assert fit.edge == pytest.approx(Noise.of(fit.law, 90).edge(0.05), rel=1e-12)


def test_bema_with_refits_removes_half_at_most() -> None:
    values = np.concatenate([np.linspace(0.9, 1.1, 40), np.geomspace(10, 1e6, 60)])
    estimator = EDGES.parse("bema:refits=20,alpha=0")
    sigma, removed = estimator.sigma(Spectrum(values, 400, 100))  # type: ignore[attr-defined]
    assert removed == 50
    assert sigma > 1.1  # ten of the spikes are left


def test_kritchman_nadler() -> None:
    w = planted(SHAPE, 4, times=2)
    s, fit = fitted("kritchman-nadler:beta=0.05", w)
    for k in range(s.p):
        sigma = np.sqrt(noise_variance(s.eigenvalues[::-1], s.n, k))
        edge = Noise.of(MarchenkoPastur((s.p - k) / s.n, sigma), s.p - k).edge(0.05)
        if s.eigenvalues[-1 - k] <= edge:
            break
    assert k == 4
    assert fit.law.sigma == pytest.approx(sigma, rel=1e-12)
    assert fit.edge == pytest.approx(edge, rel=1e-12)
    assert fit.sigma_error == pytest.approx(sigma / np.sqrt(2 * 200 * 86), rel=1e-12)
    assert fit.ks_distance == pytest.approx(distance(s, sigma, 4), rel=1e-12)


def test_mp_pca() -> None:
    w = planted(SHAPE, 4, times=3)
    s, fit = fitted("mp-pca", w)
    values = s.eigenvalues
    count = s.count_above(fit.edge)
    bulk = values[: 90 - count]
    assert count == 4
    assert fit.law.sigma == pytest.approx(np.sqrt(bulk.mean()), rel=1e-12)
    assert fit.sigma_error == pytest.approx(fit.law.sigma / np.sqrt(2 * 200 * 86), rel=1e-12)
    assert fit.noise.top == pytest.approx(values[0] + 4 * np.sqrt(86 / 200) * bulk.mean())
    assert fit.noise.scale is None
    assert fit.ks_distance == pytest.approx(distance(s, fit.law.sigma, 4), rel=1e-12)


@pytest.mark.parametrize(("beta", "removed"), [(0.01, 8), (0.9, 10)])
def test_dyson(beta: float, removed: int) -> None:
    """The spikes are so weak that all of them are found only with a large beta."""
    rows = drawn(np.random.default_rng(0), SHAPE, NOISES.parse("row-scaled:spread=0.5"))
    w = rows + planted(SHAPE, 10, times=1.3) - noise(SHAPE, seed=1)
    s, fit = fitted(f"dyson:beta={beta}", w)
    variances = dyson_variances(w, s)
    equal = spectrum(w / np.sqrt(variances.rows)[:, None] / np.sqrt(variances.columns))
    bema = EDGES.parse(f"bema:refits=20,beta={beta}")
    sigma, taken = bema.sigma(equal)  # type: ignore[attr-defined]
    assert taken == removed
    assert fit.law.sigma == pytest.approx(sigma, rel=1e-9)
    error = sigma * window_error(0.45, 90, 0.2)
    assert fit.sigma_error == pytest.approx(error, rel=1e-9)
    top, scale = Separable(sigma**2 * variances.rows, variances.columns).edge()
    assert fit.noise.top == pytest.approx(top, rel=1e-9)
    assert fit.edge == pytest.approx(top + tracy_widom.quantile(1 - beta) * scale, rel=1e-9)
    assert fit.ks_distance == pytest.approx(distance(equal, sigma, removed), rel=1e-9)
    assert not fit.one_variance
    assert fit.verdict is Verdict.FITS


def test_dyson_by_default() -> None:
    w = drawn(np.random.default_rng(0), SHAPE, NOISES.parse("row-scaled:spread=0.5"))
    default, stricter = fitted("dyson", w)[1], fitted("dyson:beta=0.05", w)[1]
    assert default.edge == fitted("dyson:beta=0.1", w)[1].edge < stricter.edge
    assert fitted("dyson", w.T)[1].edge == pytest.approx(default.edge, rel=1e-9)


@pytest.mark.parametrize(
    "name", ["select", "bema", "bema-gamma", "dyson", "kritchman-nadler", "median", "mp-pca"]
)
def test_the_largest_distance_of_a_good_fit_is_an_option(name: str) -> None:
    """Weak signal spreads over the bulk, which is then not pure noise."""
    w = planted((300, 200), 90, times=0.8)
    assert fitted(f"{name}:max_distance=0.001", w)[1].verdict is Verdict.POOR_FIT
    fit = fitted(f"{name}:max_distance=0.5", w)[1]
    certain = fit.p_value is not None and fit.p_value < 1e-6
    assert fit.verdict is (Verdict.NEAR if certain else Verdict.FITS)


def test_select_passes_its_options_on() -> None:
    options = "beta=0.01,max_distance=0.5"
    small = planted((100, 40), 2, times=4)
    rows = drawn(np.random.default_rng(0), (300, 784), NOISES.parse("row-scaled:spread=0.5"))
    wide = planted((300, 200), 70, times=1.1)
    plain = planted((300, 200), 3, times=3)
    for w, name, chosen in [
        (small, "kritchman-nadler", "kritchman-nadler: fewer than 64 singular values"),
        (rows, "dyson", "dyson: rows or columns differ in noise"),
        (wide, "bema", "bema, as published: the bulk after refits is not pure noise"),
    ]:
        selected, named = (fitted(f"{n}:{options}", w)[1] for n in ("select", name))
        assert selected.chosen == chosen
        assert (selected.edge, selected.ks_distance) == (named.edge, named.ks_distance)
        assert selected.verdict is named.verdict
    s, selected = fitted(f"select:{options}", plain)
    assert selected.chosen == "bema with refits: what they leave passes for pure noise"
    bema = EDGES.parse(f"bema:refits=20,{options}")
    tails = min(0.0, excess_kurtosis(plain, spectrum(plain)))
    assert selected.edge == bema.fit(s, plain, tails).edge  # type: ignore[call-arg]
    assert fitted("select", planted((100, 63), 2, times=4))[1].chosen.startswith("kritchman")
    assert fitted("select", planted((100, 64), 2, times=4))[1].chosen.startswith("bema")


@pytest.mark.parametrize("bound", [0.0, 0.1, 0.3])
def test_screenot(bound: float) -> None:
    """Donoho, Gavish and Romanov (2023), section 3, with derivatives by differences."""
    s, fit = fitted(f"screenot:bound={bound}", planted((120, 70), 5, times=3))
    y = np.sqrt(s.eigenvalues)[::-1]
    k = int(bound * 70)
    size = 2 ** (2 / 3) - 1
    top = [y[k] + (1 - (i / k) ** (2 / 3)) / size * (y[k] - y[2 * k]) for i in range(k)]
    bulk = np.concatenate([top, y[k:]])

    def log_d(t: float) -> float:
        phi = np.mean(t / (t**2 - bulk**2))
        return float(np.log(phi * (70 / 120 * phi + (1 - 70 / 120) / t)))

    def psi(t: float) -> float:
        h = 1e-5 * t
        return t * (log_d(t + h) - log_d(t - h)) / (2 * h)

    threshold = brentq(lambda t: psi(t) + 4, bulk.max() * 1.01, bulk.max() * 10)
    assert np.sqrt(fit.edge) == pytest.approx(threshold, rel=1e-6)
    assert fit.law.sigma == pytest.approx(np.sqrt(median_variance(s)), rel=1e-12)
    assert fit.verdict is Verdict.NO_LAW


@pytest.mark.parametrize(("beta", "trials", "order"), [(0.1, 9, 9), (0.1, 20, 19)])
def test_sign_flip(beta: float, trials: int, order: int) -> None:
    w = noise(SHAPE, 3.0)
    s, fit = fitted(f"sign-flip:beta={beta},trials={trials}", w)
    rng = np.random.default_rng(0)
    flipped = [w * rng.choice((-1.0, 1.0), w.shape) for _ in range(trials)]
    largest = np.sort([np.linalg.norm(x, 2) ** 2 / 200 for x in flipped])
    assert fit.edge == pytest.approx(largest[order - 1], rel=1e-9)
    assert fit.law.sigma == pytest.approx(np.sqrt(np.mean(w**2)), rel=1e-9)
    assert s.count_above(fit.edge) == 0


def test_sign_flip_removes_spikes_and_the_noise_that_they_took() -> None:
    w = planted(SHAPE, 3, times=5)
    s, fit = fitted("sign-flip", w)
    left, values, right = np.linalg.svd(w, full_matrices=False)
    rest = w - left[:, :3] * values[:3] @ right[:3]
    rows, columns = 1 - np.sum(left[:, :3] ** 2, axis=1), 1 - np.sum(right[:3] ** 2, axis=0)
    rest /= np.sqrt(np.outer(rows, columns))
    rng = np.random.default_rng(0)
    flipped = [rest * rng.choice((-1.0, 1.0), rest.shape) for _ in range(20)]
    largest = np.sort([np.linalg.norm(x, 2) ** 2 / 200 for x in flipped])
    assert s.count_above(fit.edge) == 3
    assert fit.edge == pytest.approx(largest[18], rel=1e-9)
    assert fit.law.sigma == pytest.approx(np.sqrt(np.mean(rest**2)), rel=1e-9)


def test_signs_are_drawn_for_one_orientation_of_a_square() -> None:
    """It is the one in which the norms of the long side's vectors differ more."""
    w = np.exp(np.linspace(-1, 1, 60))[:, None] * noise((60, 60))
    rng = np.random.default_rng(0)
    flipped = [w * rng.choice((-1.0, 1.0), w.shape) for _ in range(20)]
    largest = np.sort([np.linalg.norm(x, 2) ** 2 / 60 for x in flipped])
    for weight in (w, w.T):
        s, fit = fitted("sign-flip", weight)
        assert s.count_above(fit.edge) == 0
        assert fit.edge == pytest.approx(largest[18], rel=1e-9)


def test_follow_matches_the_eigenvalues_that_are_left() -> None:
    w = planted(SHAPE, 3, times=4)
    s, fit = fitted("bema", w)
    later = Spectrum(np.where(np.arange(90) < 40, 0.0, 1.3 * s.eigenvalues), 200, 90)
    followed = follow(fit, later, 50, 3)
    bulk = without(later, 3)
    ranks = np.arange(40, 87)
    q = MarchenkoPastur(87 / 197).ppf((ranks + 0.5) / 87)
    variance = q @ bulk.eigenvalues[ranks] / (q @ q)
    ratio = variance / fit.law.sigma**2
    assert followed.law == MarchenkoPastur(0.45, np.sqrt(variance))
    assert followed.edge == pytest.approx(ratio * fit.edge, rel=1e-12)
    assert followed.noise.top == pytest.approx(ratio * fit.noise.top, rel=1e-12)
    assert followed.noise.scale == pytest.approx(ratio * (fit.noise.scale or 0), rel=1e-12)
    assert followed.sigma_error is None
    assert followed.p_value is None
    assert followed.verdict is fit.verdict
    # Twenty of the bulk are the fewest that tell.
    assert follow(fit, later, 23, 3) is not fit
    assert follow(fit, later, 22, 3) is fit
    lawless = fitted("mp-pca", w)[1]
    assert follow(lawless, later, 50, 3).noise.scale is None
    nothing = fitted("bema", w[:, :1] @ w[:1])[1]
    assert follow(nothing, later, 50, 3) is nothing


@pytest.mark.parametrize("side", [0, 1])
def test_bema_gamma(side: int) -> None:
    """The fitted law, by its own quantiles, and the edge of noise that is drawn from it."""
    n, p = 200, 90
    rng = np.random.default_rng(side)
    variances = rng.gamma(2.0, 0.5, (n, p)[side])
    w = rng.standard_normal((n, p)) * np.sqrt(variances if side else variances[:, None])
    s, fit = fitted("bema-gamma:beta=0.05", w)
    window = slice(18, 72)
    middle = s.eigenvalues[window]
    equal = MarchenkoPastur(p / n).ppf((np.arange(p) + 0.5) / p)
    plain = np.random.default_rng(2023).standard_normal((n, p))
    unscaled = spectrum(plain).eigenvalues

    def match(log_shape: float, side: int) -> tuple[float, float, np.ndarray]:
        m = (n, p)[side]
        shape = np.exp(log_shape)
        deviations = np.sqrt(gamma_law.ppf((np.arange(m) + 0.5) / m, shape, scale=1 / shape))
        scaled = plain * (deviations if side else deviations[:, None])
        law = equal * spectrum(scaled).eigenvalues / unscaled
        variance = law[window] @ middle / (law[window] @ law[window])
        return float(np.sum((middle - variance * law[window]) ** 2)), variance, law

    # The best of a grid, and its neighbours, hold the shape that was found.
    grid = np.linspace(np.log(0.3), np.log(20), 60)
    best, which = min((match(g, k)[0], k) for g in grid for k in (0, 1))
    assert which == side
    shape = brentq(
        lambda g: match(g, side)[1] - fit.law.sigma**2,
        *_around(grid, [match(g, side)[1] for g in grid], fit.law.sigma**2),
    )
    assert match(shape, side)[0] < best * 1.02
    law = match(shape, side)[2]
    moved = np.interp(s.eigenvalues / fit.law.sigma**2, law, equal)
    expected = ks_distance(Spectrum(moved, n, p), MarchenkoPastur(p / n), 0.2)
    assert fit.ks_distance == pytest.approx(expected, rel=1e-6)
    size = (n, p)[side]
    draws = np.random.default_rng(2023).gamma(np.exp(shape), np.exp(-shape), (100, size))
    tops, scales = np.array([one_sided_edge(d, n + p - size, n) for d in draws]).T
    mean = np.mean(tops + tracy_widom.MEAN * scales)
    variance = np.var(tops + tracy_widom.MEAN * scales) + tracy_widom.VARIANCE * np.mean(scales**2)
    unit = np.sqrt(variance / tracy_widom.VARIANCE)
    edge = mean + (tracy_widom.quantile(0.95) - tracy_widom.MEAN) * unit
    assert fit.edge == pytest.approx(fit.law.sigma**2 * edge, rel=1e-6)
    error = np.hypot(window_error(p / n, p, 0.2), 1.2 / np.sqrt(4 * size * np.exp(shape)))
    assert fit.sigma_error == pytest.approx(fit.law.sigma * error, rel=1e-6)
    assert fit.p_value is None


def _around(grid: np.ndarray, values: list[float], wanted: float) -> tuple[float, float]:
    """Neighbours in the grid whose values lie on both sides of the requested one."""
    i = int(np.flatnonzero(np.diff(np.sign(np.array(values) - wanted)))[0])
    return grid[i], grid[i + 1]
