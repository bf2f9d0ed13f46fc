"""The overlap of a random direction with a subspace."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import stats

from rmtcli.law.overlap import p_values


@pytest.mark.parametrize(("dimension", "space"), [(1, 20), (5, 64), (30, 40)])
def test_p_values_of_random_directions_are_uniform(dimension: int, space: int) -> None:
    rng = np.random.default_rng(0)
    known = np.linalg.qr(rng.standard_normal((space, dimension)))[0]
    directions = rng.standard_normal((space, 4000))
    directions /= np.linalg.norm(directions, axis=0)
    overlaps = np.square(known.T @ directions).sum(axis=0)
    values = p_values(overlaps, dimension, space)
    assert stats.kstest(values, "uniform").pvalue > 0.001
    expected = stats.beta.sf(overlaps, dimension / 2, (space - dimension) / 2)
    np.testing.assert_allclose(values, expected, rtol=1e-9)


def test_without_a_subspace_nothing_is_known() -> None:
    overlaps = np.array([0.0, 0.5, 1.0])
    assert (p_values(overlaps, 0, 9) == 1).all()
    assert (p_values(overlaps, 9, 9) == 1).all()
    np.testing.assert_allclose(p_values(overlaps[[0, 2]], 4, 9), [1.0, 0.0])
