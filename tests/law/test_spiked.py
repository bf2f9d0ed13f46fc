from __future__ import annotations

import numpy as np
import pytest

from rmtcli.law.marchenko_pastur import MarchenkoPastur
from rmtcli.law.spiked import signal


@pytest.mark.parametrize(("n", "p"), [(400, 400), (800, 200)])
@pytest.mark.parametrize("times", [1.5, 3.0])
def test_strength_and_overlaps_are_those_of_a_planted_direction(
    n: int, p: int, times: float
) -> None:
    rng = np.random.default_rng(0)
    theta = times * (n * p) ** 0.25
    ratios, long, short = [], [], []
    for _ in range(20):
        u, v = rng.standard_normal(n), rng.standard_normal(p)
        u, v = u / np.linalg.norm(u), v / np.linalg.norm(v)
        w = rng.standard_normal((n, p)) + theta * np.outer(u, v)
        values, basis = np.linalg.eigh(w.T @ w)
        right = basis[:, -1]
        left = w @ right / np.sqrt(values[-1])
        estimate = signal(MarchenkoPastur(p / n), n, values[-1:] / n)
        ratios.append(estimate.strength[0] / theta)
        long.append(estimate.long_overlap[0] - float(u @ left) ** 2)
        short.append(estimate.short_overlap[0] - float(v @ right) ** 2)
    # Means of 20 draws; at 1.5 times the limit one draw scatters by 0.1.
    assert np.mean(ratios) == pytest.approx(1, abs=0.04)
    assert abs(np.mean(long)) < 0.06
    assert abs(np.mean(short)) < 0.06


def test_formulas_invert_the_map_from_strength_to_spike() -> None:
    g, n, sigma = 0.4, 1000, 0.3
    x = np.array([1.01 * g**0.25, 1.0, 3.0, 1e6])
    y2 = (x**2 + 1) * (x**2 + g) / x**2
    estimate = signal(MarchenkoPastur(g, sigma), n, sigma**2 * y2)
    assert estimate.strength == pytest.approx(x * sigma * np.sqrt(n), rel=1e-6)
    assert estimate.long_overlap == pytest.approx((x**4 - g) / (x**4 + x**2), abs=1e-5)
    assert estimate.short_overlap == pytest.approx((x**4 - g) / (x**4 + g * x**2), abs=1e-5)


def test_within_the_bulk_no_signal_is_visible() -> None:
    law = MarchenkoPastur(0.5, 2.0)
    estimate = signal(law, 100, np.array([0.0, law.mean, law.lambda_plus]))
    for values in (estimate.strength, estimate.long_overlap, estimate.short_overlap):
        assert not values.any()


def test_without_noise_the_spike_is_the_signal() -> None:
    estimate = signal(MarchenkoPastur(0.5, 0.0), 100, np.array([4.0]))
    assert estimate.strength[0] == 20
    assert estimate.long_overlap[0] == estimate.short_overlap[0] == 1
