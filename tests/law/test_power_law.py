from __future__ import annotations

import time
from functools import cache

import numpy as np
import pytest

from rmtcli.checkpoint import open_checkpoint
from rmtcli.law.power_law import clauset, hill
from rmtcli.layers import Layer, find_layers
from rmtcli.spectra import spectrum
from tests.conftest import SAMPLES, noise, planted


def pareto(p: int, alpha: float, seed: int = 0) -> np.ndarray:
    """Return ascending draws of density x^(−alpha) above 1."""
    return np.sort(1 + np.random.default_rng(seed).pareto(alpha - 1, p))


def naive(values: np.ndarray) -> tuple[float, float, float]:
    """Return alpha, x_min and distance by sections 3.1 and 3.3 of the paper."""
    fits = []
    for x_min in values[:-1]:
        tail = values[values >= x_min]
        if tail[-1] == x_min:
            continue
        alpha = 1 + len(tail) / np.log(tail / x_min).sum()
        fitted = 1 - (tail / x_min) ** (1 - alpha)
        distance = np.abs(fitted - np.arange(len(tail)) / len(tail)).max()
        fits.append((distance, alpha, x_min))
    distance, alpha, x_min = min(fits)
    return alpha, x_min, distance


@cache
def spectra() -> dict[str, np.ndarray]:
    spectra = {
        "noise": spectrum(noise((300, 200))).eigenvalues,
        "square": spectrum(noise((150, 150))).eigenvalues,
        "spikes": spectrum(planted((400, 100), 10, times=2.0)).eigenvalues,
        "pareto": pareto(500, 2.5),
        "mixed": np.sort(np.concatenate([np.linspace(0.1, 1, 300), pareto(200, 3.0)])),
    }
    for file in ("mnist_mlp.safetensors", "mnist_deep.pt"):
        for item in find_layers(open_checkpoint(SAMPLES / file)):
            if isinstance(item, Layer) and not item.head:
                spectra[f"{file} {item.name}"] = spectrum(item.load()).eigenvalues
    return spectra


@pytest.mark.filterwarnings("ignore:Standard error for the MLE")  # powerlaw warns of itself
@pytest.mark.parametrize("name", spectra())
def test_agrees_with_the_paper_and_with_powerlaw(name: str) -> None:
    import powerlaw

    values = spectra()[name]
    ours = clauset(values)
    assert ours is not None
    alpha, x_min, distance = naive(values[values > 0])
    assert (ours.alpha, ours.x_min) == pytest.approx((alpha, x_min), rel=1e-9)
    assert ours.distance == pytest.approx(distance, rel=1e-9)
    # Without it, version 2 leaves out every tail whose alpha is above 3.
    free = {"alpha": (1.0, np.inf)}
    theirs = powerlaw.Fit(values[values > 0], verbose=False, parameter_ranges=free).power_law
    assert ours.alpha == pytest.approx(theirs.alpha, rel=1e-6)
    assert ours.error == pytest.approx(theirs.standard_err, rel=1e-6)
    assert ours.x_min == pytest.approx(theirs.xmin, rel=1e-6)


@pytest.mark.parametrize("alpha", [1.8, 3.0, 5.0])
def test_the_exponent_of_a_power_law_is_recovered(alpha: float) -> None:
    values = pareto(2000, alpha)
    fit = clauset(values)
    assert fit is not None
    # The tail is searched for, which adds to the error that is given for a known one.
    assert abs(fit.alpha - alpha) < 5 * fit.error
    assert fit.count > 400
    larger_half = hill(values)
    assert larger_half is not None
    assert abs(larger_half - alpha) < 4 * (alpha - 1) / np.sqrt(1000)


def test_scale_changes_only_where_the_tail_begins() -> None:
    values = pareto(300, 2.2)
    one, other = clauset(values), clauset(1e-40 * values)
    assert one is not None
    assert other is not None
    assert other.alpha == pytest.approx(one.alpha, rel=1e-9)
    assert other.x_min == pytest.approx(1e-40 * one.x_min)
    assert hill(1e-40 * values) == pytest.approx(hill(values))


def test_blocks_change_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    values = pareto(400, 2.2)
    whole = clauset(values)
    monkeypatch.setattr("rmtcli.law.power_law._BLOCK", 1000)
    assert clauset(values) == whole


@pytest.mark.parametrize("values", [[2.0], [0.0, 0.0], [0.0, 3.0], [1.0] * 30, [0.0, 2.0, 2.0]])
def test_fewer_than_two_different_values_have_no_tail(values: list[float]) -> None:
    assert clauset(np.array(values)) is None
    assert hill(np.array(values)) is None


def test_zeros_belong_to_no_tail() -> None:
    values = pareto(100, 2.5)
    assert clauset(np.concatenate([np.zeros(50), values])) == clauset(values)


def test_four_thousand_eigenvalues_are_fitted_quickly() -> None:
    values = pareto(4096, 2.5)
    start = time.process_time()
    clauset(values)
    assert time.process_time() - start < 2  # 0.25 s on an idle core


def test_hill_is_the_mean_logarithm_above_the_middle() -> None:
    assert hill(np.array([1.0, 1.0, 2.0])) == pytest.approx(1 + 1 / np.log(2))
    assert hill(np.array([0.5, 1.0, 2.0, 8.0])) == pytest.approx(1 + 2 / np.log(16))
    assert hill(np.array([0.0, 0.0, 2.0, 8.0])) is None
    assert hill(np.array([3.0])) is None
