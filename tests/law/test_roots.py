"""Chandrupatla's method on functions whose roots are known."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from scipy.optimize import elementwise

from rmtcli.law.roots import bracketed


def test_many_roots_at_once() -> None:
    expected = np.linspace(0.1, 5, 50)
    roots = bracketed(lambda x: x**3 - expected**3, np.zeros(50), 10.0)
    np.testing.assert_allclose(roots, expected, rtol=4e-15)


@pytest.mark.parametrize("root", [0.0, 1.0, 0.3])
def test_roots_at_the_ends_of_the_bracket_count(root: float) -> None:
    assert bracketed(lambda x: x - root, 0.0, 1.0) == pytest.approx(root, abs=1e-15)


def test_a_flat_and_a_steep_function() -> None:
    assert bracketed(lambda x: (x - 0.7) ** 9, 0.0, 1.0) == pytest.approx(0.7, abs=1e-12)
    assert bracketed(lambda x: np.sign(x - 1e-3), -5.0, 5.0) == pytest.approx(1e-3, rel=1e-14)
    assert bracketed(lambda x: np.arctan(1e9 * (x - 2)), 0.0, 100.0) == pytest.approx(2)


def test_no_problems_give_no_roots() -> None:
    assert bracketed(lambda x: x, np.zeros(0), 1.0).shape == (0,)


@pytest.mark.parametrize(
    ("function", "low", "high", "limit"),
    [
        (lambda x: x**3 - 2 * x - 5, 2.0, 3.0, 10),
        (lambda x: 1 - 1 / x**2, 0.5, 1.51, 10),
        (lambda x: (x - 3) ** 3, 0.0, 5.0, 55),
        (lambda x: np.exp(-x) - x, -1.0, 4.0, 10),
        (lambda x: np.tanh(1e3 * (x - 0.1)), -1.0, 1.0, 20),
        (lambda x: x**9, -1.0, 4.0, 125),
    ],
)
def test_roots_take_few_evaluations_and_never_more_than_bisection(
    function: Callable[[Any], Any], low: float, high: float, limit: int
) -> None:
    evaluations: list[float] = []

    def counted(x: np.ndarray) -> np.ndarray:
        evaluations.append(float(np.max(x)))
        return np.asarray(function(x))

    root = bracketed(counted, low, high)
    eps, tiny = 4 * np.finfo(float).eps, 4 * np.finfo(float).tiny
    tolerances = {"xrtol": eps, "xatol": tiny, "fatol": 0.0, "frtol": 0.0}
    theirs = elementwise.find_root(function, (low, high), tolerances=tolerances)
    assert root == pytest.approx(float(theirs.x), rel=1e-15, abs=1e-300)
    assert low <= min(evaluations) <= max(evaluations) <= high
    # Bisection halves the bracket until it is twice as wide as the tolerance at the root.
    halvings = np.log2((high - low) / (2 * (eps * abs(float(theirs.x)) + tiny)))
    assert len(evaluations) <= min(limit, halvings + 3)
