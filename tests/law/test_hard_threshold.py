from __future__ import annotations

import math

import pytest

from rmtcli.law.hard_threshold import optimal_threshold
from rmtcli.law.marchenko_pastur import MarchenkoPastur


@pytest.mark.parametrize(("gamma", "omega"), [(0.1, 1.6089), (0.5, 2.1711), (1.0, 2.8582)])
def test_omega_agrees_with_gavish_and_donoho(gamma: float, omega: float) -> None:
    """Their table IV gives ω(β) = λ*(β)/√μ_β, to four digits, from a rougher median."""
    median = float(MarchenkoPastur(gamma).ppf(0.5))
    assert math.sqrt(optimal_threshold(gamma) / median) == pytest.approx(omega, abs=3e-4)


def test_square_matrices_have_the_threshold_four_over_root_three() -> None:
    assert math.sqrt(optimal_threshold(1.0)) == pytest.approx(4 / math.sqrt(3), rel=1e-12)


@pytest.mark.parametrize("gamma", [0, -1, 1.01])
def test_impossible_aspect_ratios_are_refused(gamma: float) -> None:
    with pytest.raises(ValueError, match="gamma"):
        optimal_threshold(gamma)
