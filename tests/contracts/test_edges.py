"""Properties that every registered edge estimator must have."""

from __future__ import annotations

import numpy as np
import pytest

from rmtcli.edges import EDGES, EdgeEstimator
from rmtcli.spectra import spectrum
from tests.conftest import noise, planted

SHAPES = [(300, 150), (128, 128), (100, 800)]
#: Estimators that take long are tried on fewer draws.
DRAWS = {"bema-gamma": 50}


@pytest.fixture(params=sorted(EDGES.choices))
def estimator(request: pytest.FixtureRequest) -> EdgeEstimator:
    return EDGES.parse(request.param)


@pytest.mark.parametrize("shape", SHAPES)
def test_planted_spikes_well_above_the_limit_are_counted(
    estimator: EdgeEstimator, shape: tuple[int, int]
) -> None:
    counts = []
    for seed in range(20):
        w = planted(shape, 5, times=3, seed=seed)
        s = spectrum(w)
        counts.append(s.count_above(estimator.fit(s, w).edge))
    # None is missed; a false one comes with chance beta = 0.1 (P[X > 6 of 20] = 0.2 %).
    assert min(counts) == 5
    assert sum(count > 5 for count in counts) <= 6


def test_pure_noise_gives_no_spikes_at_the_stated_rate(
    estimator: EdgeEstimator, request: pytest.FixtureRequest
) -> None:
    """The rate is counted for each shape, and more exactly for all shapes together."""
    draws = DRAWS.get(request.node.callspec.params["estimator"], 150)
    false = dict.fromkeys(SHAPES, 0)
    for shape in SHAPES:
        rng = np.random.default_rng(3)
        for _ in range(draws):
            w = rng.standard_normal(shape)
            s = spectrum(w)
            false[shape] += s.count_above(estimator.fit(s, w).edge) > 0
    for count, tried in [*((n, draws) for n in false.values()), (sum(false.values()), 3 * draws)]:
        # beta = 0.1, three binomial deviations, and 0.03 for the finite size.
        assert count / tried <= 0.1 + 3 * np.sqrt(0.09 / tried) + 0.03


@pytest.mark.parametrize("shape", SHAPES)
def test_transposing_and_scaling_change_no_rank_and_scale_the_edge(
    estimator: EdgeEstimator, shape: tuple[int, int]
) -> None:
    w = planted(shape, 4, times=3)
    s = spectrum(w)
    fit = estimator.fit(s, w)
    for other, scale in [(w.T, 1.0), (1e-6 * w, 1e-6), (1e20 * w, 1e20)]:
        s2 = spectrum(other)
        fit2 = estimator.fit(s2, other)
        assert s2.count_above(fit2.edge) == s.count_above(fit.edge)
        assert fit2.law.sigma == pytest.approx(scale * fit.law.sigma, rel=1e-9)
        assert fit2.edge == pytest.approx(scale**2 * fit.edge, rel=1e-8)
        assert fit2.ks_distance == pytest.approx(fit.ks_distance, abs=1e-9)
        assert fit2.verdict is fit.verdict


@pytest.mark.parametrize("shape", SHAPES)
def test_rotating_changes_no_rank(estimator: EdgeEstimator, shape: tuple[int, int]) -> None:
    """A rotation changes the entries, but they are still noise of one variance."""
    w = planted(shape, 4, times=3)
    rng = np.random.default_rng(1)
    left = np.linalg.qr(rng.standard_normal((shape[0], shape[0])))[0]
    right = np.linalg.qr(rng.standard_normal((shape[1], shape[1])))[0]
    rotated = left @ w @ right
    s, s2 = spectrum(w), spectrum(rotated)
    fit, fit2 = estimator.fit(s, w), estimator.fit(s2, rotated)
    assert s2.count_above(fit2.edge) == s.count_above(fit.edge)
    assert fit2.law.sigma == pytest.approx(fit.law.sigma, rel=0.02)
    assert fit2.verdict is fit.verdict


@pytest.mark.parametrize("shape", [(1, 1), (1, 50), (50, 1), (2, 2), (3, 1000)])
def test_any_shape_gets_a_fit(estimator: EdgeEstimator, shape: tuple[int, int]) -> None:
    fit = estimator.fit(spectrum(noise(shape)), noise(shape))
    assert fit.law.sigma > 0
    assert fit.edge > 0
    assert 0 <= fit.ks_distance <= 1


def test_spelling_and_parsing_are_inverses(estimator: EdgeEstimator) -> None:
    assert EDGES.parse(EDGES.spell(estimator)) == estimator


def degenerate() -> dict[str, np.ndarray]:
    rng = np.random.default_rng(0)

    def low_rank(rank: int) -> np.ndarray:
        return rng.standard_normal((100, rank)) @ rng.standard_normal((rank, 100))

    return {
        "identity": np.eye(64, 200),
        "diagonal": np.diag(np.geomspace(1, 1e-12, 100)),
        "constant": np.ones((50, 70)),
        "zero rows": np.vstack([rng.standard_normal((50, 80)), np.zeros((60, 80))]),
        "zero columns": np.hstack([rng.standard_normal((90, 30)), np.zeros((90, 50))]),
        "half rank": low_rank(50),
        "more than half": low_rank(51),
        "one large entry": rng.standard_normal((100, 100))
        + 1e6 * np.eye(1, 10_000).reshape(100, 100),
        "tiny": 1e-140 * rng.standard_normal((60, 60)),
        "huge": 1e140 * rng.standard_normal((60, 60)),
        "half precision": rng.standard_normal((90, 60)).astype(np.float16),
    }


@pytest.mark.parametrize("kind", sorted(degenerate()))
def test_degenerate_weights_get_a_verdict_without_a_warning(
    estimator: EdgeEstimator, kind: str
) -> None:
    w = degenerate()[kind]
    s = spectrum(w)
    fit = estimator.fit(s, w)
    assert np.isfinite([fit.edge, fit.law.sigma, fit.ks_distance]).all()
    top = s.eigenvalues[-3:]
    p_values, signal = fit.p_values(top), fit.signal(s.n, top)
    assert p_values is None or np.isfinite(p_values).all()
    assert signal is None or np.isfinite(signal.strength).all()
