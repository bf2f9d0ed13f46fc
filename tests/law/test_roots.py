"""Chandrupatla's method on functions whose roots are known."""

from __future__ import annotations

import numpy as np
import pytest

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
