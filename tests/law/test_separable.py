from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from rmtcli.law import tracy_widom
from rmtcli.law.marchenko_pastur import MarchenkoPastur
from rmtcli.law.separable import Separable, one_sided_edge


@pytest.mark.parametrize(("n", "p"), [(512, 512), (784, 300), (1000, 20), (64, 1)])
def test_equal_variances_give_marchenko_pastur_and_johnstone(n: int, p: int) -> None:
    top, scale = Separable(np.full(n, 4.0), np.full(p, 0.25)).edge()
    law = MarchenkoPastur(p / n)
    assert top == pytest.approx(law.lambda_plus, rel=1e-9)
    assert scale == pytest.approx(tracy_widom.scale(law, p), rel=1e-9)


@pytest.mark.parametrize("side", [0, 1])
def test_the_largest_noise_eigenvalue_lies_at_the_edge(side: int) -> None:
    rng = np.random.default_rng(side)
    n, p = 300, 150
    deviations = []
    for _ in range(60):
        rows, columns = np.ones(n), np.ones(p)
        scaled = (rows, columns)[side]
        scaled[:] = np.exp(0.5 * rng.standard_normal(len(scaled)))
        w = np.sqrt(rows)[:, None] * rng.standard_normal((n, p)) * np.sqrt(columns)
        top, scale = Separable(rows, columns).edge()
        deviations.append((np.linalg.norm(w, 2) ** 2 / n - top) / scale)
    # Tracy–Widom has mean −1.21 and deviation 1.27; 60 draws and the finite size leave 0.8.
    assert abs(np.mean(deviations) + 1.21) < 0.8
    assert 0.7 < np.std(deviations) < 1.9


def test_units_do_not_matter() -> None:
    rng = np.random.default_rng(0)
    rows, columns = rng.uniform(0.5, 2, 90), rng.uniform(0.5, 2, 60)
    top, scale = Separable(rows, columns).edge()
    top2, scale2 = Separable(1e-12 * rows, 1e-8 * columns).edge()
    assert top2 == pytest.approx(1e-20 * top, rel=1e-9)
    assert scale2 == pytest.approx(1e-20 * scale, rel=1e-9)


@pytest.mark.parametrize(("n", "p"), [(300, 150), (200, 200), (784, 30)])
@pytest.mark.parametrize("is_long", [True, False])
def test_one_side_is_the_separable_law_in_closed_form(n: int, p: int, is_long: bool) -> None:
    sides = [np.ones(n), np.ones(p)]
    unequal = np.random.default_rng(n).gamma(2.0, 3.0, n if is_long else p)
    sides[0 if is_long else 1] = unequal
    top, scale = Separable(*sides).edge()
    top1, scale1 = one_sided_edge(unequal, p if is_long else n, n)
    assert top1 == pytest.approx(top, rel=1e-8)
    assert scale1 == pytest.approx(scale, rel=1e-8)


@given(
    spread=st.floats(0, 6),
    n=st.integers(1, 120),
    share=st.floats(0.005, 1),
    seed=st.integers(0, 2**32 - 1),
)
def test_no_point_of_the_curve_is_below_the_edge(
    spread: float, n: int, share: float, seed: int
) -> None:
    """The definition, at points around the edge: f by bisection, and z from the two means."""
    rng = np.random.default_rng(seed)
    p = max(1, round(share * n))
    a, b = (np.exp(spread * rng.standard_normal(k)) for k in (n, p))
    a, b = a / a.max(), b / b.max()
    top, scale = Separable(a, b).edge()
    assert 0 < scale < np.inf
    e = -1 / (1 + np.exp(np.linspace(-9, 9, 150)))
    wanted = np.array([np.sum(x * a / (1 + x * a)) for x in e])
    low, high = np.full(150, -1.0), np.zeros(150)
    for _ in range(70):
        f = (low + high) / 2
        below = np.array([np.sum(x * b / (1 + x * b)) for x in f]) < wanted
        low, high = np.where(below, f, low), np.where(below, high, f)
    z = -wanted / n / (e * f)
    assert np.min(z) >= top * (1 - 1e-9)
    assert np.min(z) < top * 1.05 or spread > 2
