"""Chandrupatla's method on functions whose roots are known."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.optimize import elementwise

from rmtcli.law.roots import bracketed


def test_many_roots_at_once() -> None:
    wanted = np.linspace(0.1, 5, 50)
    found = bracketed(lambda x: x**3 - wanted**3, np.zeros(50), 10.0)
    np.testing.assert_allclose(found, wanted, rtol=4e-15)


@pytest.mark.parametrize("wanted", [0.0, 1.0, 0.3])
def test_roots_at_the_ends_count(wanted: float) -> None:
    assert bracketed(lambda x: x - wanted, 0.0, 1.0) == pytest.approx(wanted, abs=1e-15)


def test_a_flat_and_a_steep_function() -> None:
    assert bracketed(lambda x: (x - 0.7) ** 9, 0.0, 1.0) == pytest.approx(0.7, abs=1e-12)
    assert bracketed(lambda x: np.sign(x - 1e-3), -5.0, 5.0) == pytest.approx(1e-3, rel=1e-14)
    assert bracketed(lambda x: np.arctan(1e9 * (x - 2)), 0.0, 100.0) == pytest.approx(2)


def test_nothing_in_nothing_out() -> None:
    assert bracketed(lambda x: x, np.zeros(0), 1.0).shape == (0,)


@pytest.mark.parametrize(
    ("function", "low", "high"),
    [
        (lambda x: x**3 - 2 * x - 5, 2.0, 3.0),
        (lambda x: 1 - 1 / x**2, 0.5, 1.51),
        (lambda x: (x - 3) ** 3, 0.0, 5.0),
        (lambda x: np.exp(-x) - x, -1.0, 4.0),
        (lambda x: np.tanh(1e3 * (x - 0.1)), -1.0, 1.0),
        (lambda x: x**9, -1.0, 4.0),
    ],
)
def test_it_takes_the_steps_of_chandrupatla(function, low: float, high: float) -> None:
    """The method is there for its speed, and scipy has it as well."""
    places = []

    def watched(x: np.ndarray) -> np.ndarray:
        places.append(float(np.max(x)))
        return np.asarray(function(x))

    found = bracketed(watched, low, high)
    eps, tiny = 4 * np.finfo(float).eps, 4 * np.finfo(float).tiny
    tolerances = {"xrtol": eps, "xatol": tiny, "fatol": 0.0, "frtol": 0.0}
    theirs = elementwise.find_root(function, (low, high), tolerances=tolerances)
    assert found == pytest.approx(float(theirs.x), rel=1e-15, abs=1e-300)
    assert abs(len(places) - theirs.nfev) <= 1
