"""Variances of rows and columns, and tails of entries, compared with their formulas."""

from __future__ import annotations

import numpy as np
import pytest

from rmtcli.edges.variances import (
    HEAVY,
    Variances,
    dyson_variances,
    excess_kurtosis,
    heavy_tailed,
)
from rmtcli.spectra import spectrum
from tests.conftest import noise, planted


def unequal(shape: tuple[int, int], rows: float, columns: float) -> np.ndarray:
    rng = np.random.default_rng(0)
    long = np.exp(rows * rng.standard_normal(shape[0]))
    short = np.exp(columns * rng.standard_normal(shape[1]))
    return long[:, None] * planted(shape, 2, times=4) * short


def transcription(w: np.ndarray) -> Variances:
    """Landa and Kluger (2025), algorithm 1, by inverses, without the scatter of logarithms."""
    n, p = w.shape
    eta = np.median(np.linalg.svd(w, compute_uv=False))
    sides, spreads = [], []
    for square, scatter in ((w @ w.T, 2 / p), (w.T @ w, 2 / n)):
        g = eta * np.diag(np.linalg.inv(square + eta**2 * np.eye(len(square))))
        logs = np.log(1 / g - eta)
        spread = np.sqrt(max(0.0, logs.var() - scatter))
        factors = np.exp((logs - logs.mean()) * spread / logs.std())
        sides.append(factors / factors.mean())
        spreads.append(spread)
    return Variances(sides[0], sides[1], max(spreads))


@pytest.mark.parametrize("shape", [(120, 51), (61, 61)])
@pytest.mark.parametrize("spread", [(0.0, 0.0), (0.6, 0.0), (0.0, 0.6), (0.4, 0.3)])
def test_variances_are_those_of_the_resolvent(
    shape: tuple[int, int], spread: tuple[float, float]
) -> None:
    w = unequal(shape, *spread)
    expected = transcription(w)
    for weight in (w, 1e-9 * w) if shape[0] == shape[1] else (w, w.T, 1e-9 * w):
        estimated = dyson_variances(weight, spectrum(weight))
        assert estimated.rows == pytest.approx(expected.rows, rel=1e-7)
        assert estimated.columns == pytest.approx(expected.columns, rel=1e-7)
        assert estimated.spread == pytest.approx(expected.spread, rel=1e-7, abs=1e-7)


def test_the_variances_of_a_spectrum_are_cached() -> None:
    w = noise((40, 30))
    s = spectrum(w)
    assert dyson_variances(w, s) is dyson_variances(w, s)
    assert dyson_variances(w, spectrum(w)) is not dyson_variances(w, s)


def test_without_noise_all_variances_are_one() -> None:
    w = np.outer(np.arange(1.0, 9), np.arange(1.0, 6))
    estimated = dyson_variances(w, spectrum(w))
    assert estimated.rows.tolist() == [1.0] * 8
    assert estimated.columns.tolist() == [1.0] * 5
    assert estimated.spread == 0


def test_an_empty_row_has_almost_no_noise() -> None:
    w = noise((80, 40))
    w[3] = 0.0
    estimated = dyson_variances(w, spectrum(w))
    # As small as the largest, 1e-6 of it, and brought nearer to the others with all the rest.
    assert np.argmin(estimated.rows) == 3
    assert estimated.rows[3] / estimated.rows.max() == pytest.approx(1e-6, rel=0.5)


@pytest.mark.parametrize("shape", [(50, 20), (3, 700)])
def test_kurtosis_is_the_fourth_cumulant_of_all_entries(shape: tuple[int, int]) -> None:
    for w in (noise(shape), np.random.default_rng(0).laplace(size=shape), 1e-150 * noise(shape)):
        unit = w / np.abs(w).max()
        expected = np.mean(unit**4) / np.mean(unit**2) ** 2 - 3
        assert excess_kurtosis(w, spectrum(w)) == pytest.approx(expected, rel=1e-9)


def test_signal_and_unequal_noise_do_not_count_as_heavy_tails() -> None:
    shape = (300, 200)
    sparse = np.zeros((2, shape[0])), np.zeros((2, shape[1]))
    for i in range(2):  # directions of few entries, which stand out as entries too
        sparse[0][i, 10 * i : 10 * i + 5] = sparse[1][i, 10 * i : 10 * i + 5] = 1.0
    w = noise(shape) + 30 * sparse[0].T @ sparse[1]
    assert excess_kurtosis(w, spectrum(w)) > HEAVY
    assert not heavy_tailed(w, spectrum(w), 2)
    assert heavy_tailed(w, spectrum(w), 0)
    assert heavy_tailed(w, spectrum(w), 200)  # all of it cannot be taken away
    for side in ((1.2, 0.0), (0.0, 1.2)):
        w = unequal(shape, *side)
        assert excess_kurtosis(w, spectrum(w)) > HEAVY
        assert not heavy_tailed(w, spectrum(w), 2)


@pytest.mark.parametrize(("density", "heavy"), [(0.25, True), (0.45, False)])
def test_tails_are_heavy_from_those_of_student_on(density: float, heavy: bool) -> None:
    """Noise in a share of the entries has kurtosis 3/share − 3: 9 and 3.7."""
    w = noise((300, 200)) * (np.random.default_rng(1).random((300, 200)) < density)
    assert heavy_tailed(w, spectrum(w), 0) is heavy
    assert heavy_tailed(w.T, spectrum(w), 0) is heavy


def test_blocks_change_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    w = unequal((120, 51), 0.5, 0.5)
    whole = excess_kurtosis(w, spectrum(w)), dyson_variances(w, spectrum(w))
    monkeypatch.setattr("rmtcli.spectra.gram._BLOCK_BYTES", 51 * 8 * 7)
    assert excess_kurtosis(w, spectrum(w)) == pytest.approx(whole[0], rel=1e-12)
    estimated = dyson_variances(w, spectrum(w))
    assert estimated.rows == pytest.approx(whole[1].rows, rel=1e-9)
    assert estimated.columns == pytest.approx(whole[1].columns, rel=1e-9)
