"""Pivot rows: the same product in fewer numbers, also where factors are singular."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from rmtcli.spectra import pivots


@given(
    outputs=st.integers(1, 30),
    inputs=st.integers(1, 30),
    data=st.data(),
    scale=st.sampled_from([1e-9, 1.0, 1e9]),
)
def test_the_product_stays(outputs: int, inputs: int, data: st.DataObject, scale: float) -> None:
    rank = data.draw(st.integers(1, min(outputs, inputs)))
    rng = np.random.default_rng(outputs * 31 + inputs)
    # Directions of very different sizes, and the last ones perhaps zero.
    left = rng.standard_normal((outputs, rank)) * 10.0 ** -np.arange(rank)
    left[:, data.draw(st.integers(1, rank)) :] = 0.0
    right = scale * rng.standard_normal((rank, inputs))
    result = pivots(left, right)
    product = left @ right
    assert np.array_equal(result.rows, np.unique(result.rows))
    assert np.array_equal(result.coefficients[result.rows], np.eye(rank))
    np.testing.assert_allclose(result.core, product[result.rows], rtol=1e-12, atol=0)
    made = result.coefficients @ result.core
    np.testing.assert_allclose(made, product, rtol=0, atol=1e-12 * np.abs(product).max())


def test_coefficients_stay_small() -> None:
    """They multiply the rounding errors of the pivot rows."""
    rng = np.random.default_rng(0)
    for outputs, rank in ((60, 5), (200, 80), (300, 299)):
        left = rng.standard_normal((outputs, rank)) * 2.0 ** -np.arange(rank)
        assert np.abs(pivots(left, np.eye(rank)).coefficients).max() < 2


def test_fewer_rows_than_the_rank_are_refused() -> None:
    with pytest.raises(ValueError, match="3 rows cannot hold 4 pivots"):
        pivots(np.ones((3, 4)), np.ones((4, 9)))
