"""The edge of a matrix whose smallest singular values were cut off."""

from __future__ import annotations

import numpy as np
import pytest

from rmtcli.edges import EDGES
from rmtcli.edges.truncated import follow
from rmtcli.spectra import Spectrum, spectrum
from tests.conftest import planted

SHAPE = (300, 200)


def cut(s: Spectrum, rank: int) -> Spectrum:
    values = np.where(np.arange(s.p) < s.p - rank, 0.0, s.eigenvalues)
    return Spectrum(values, s.n, s.p)


@pytest.mark.parametrize("rank", [200, 120, 60, 30])
def test_the_edge_moves_with_the_rest_of_the_bulk(rank: int) -> None:
    """The noise is twice as large: another draw, of which only the upper end is left."""
    first = spectrum(planted(SHAPE, 3, times=4, seed=1))
    fit = EDGES.parse("bema").fit(first, planted(SHAPE, 3, times=4, seed=1))
    later = spectrum(planted(SHAPE, 3, times=4, sigma=2, seed=7))
    followed = follow(fit, cut(later, rank), rank, 3)
    assert followed.law.sigma == pytest.approx(2, rel=0.05)
    assert followed.edge == pytest.approx(4 * fit.edge, rel=0.1)
    assert later.count_above(followed.edge) == 3


def test_the_same_matrix_has_the_same_edge() -> None:
    weight = planted(SHAPE, 3, times=4)
    s = spectrum(weight)
    fit = EDGES.parse("bema").fit(s, weight)
    assert follow(fit, cut(s, 100), 100, 3).edge == pytest.approx(fit.edge, rel=0.02)


def test_new_spikes_do_not_count_as_noise() -> None:
    """Directions that training has added since."""
    first = planted(SHAPE, 3, times=4)
    fit = EDGES.parse("bema").fit(spectrum(first), first)
    later = spectrum(planted(SHAPE, 12, times=4, seed=3))
    followed = follow(fit, cut(later, 100), 100, 3)
    assert followed.edge == pytest.approx(fit.edge, rel=0.03)
    assert later.count_above(followed.edge) == 12


def test_without_a_bulk_the_edge_stays() -> None:
    weight = planted(SHAPE, 3, times=4)
    s = spectrum(weight)
    fit = EDGES.parse("bema").fit(s, weight)
    assert follow(fit, cut(s, 10), 10, 3) is fit


def test_small_weights_are_followed_like_large_ones() -> None:
    weight = planted(SHAPE, 3, times=4)
    edges = []
    for scale in (1.0, 1e-3):
        s = spectrum(scale * weight)
        fit = EDGES.parse("bema").fit(s, scale * weight)
        later = Spectrum(1.5 * cut(s, 100).eigenvalues, s.n, s.p)
        edges.append(follow(fit, later, 100, 3).edge / scale**2)
        assert edges[-1] > 1.2 * fit.edge / scale**2
    assert edges[1] == pytest.approx(edges[0], rel=1e-9)
