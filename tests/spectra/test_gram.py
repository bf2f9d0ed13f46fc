from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from rmtcli.spectra import factorize, spectrum

SHAPES = st.tuples(st.integers(1, 12), st.integers(1, 12))
MATRICES = SHAPES.flatmap(
    lambda shape: hnp.arrays(
        np.float64, shape, elements=st.floats(-10, 10, allow_subnormal=False, width=32)
    )
)


@given(MATRICES)
def test_eigenvalues_are_squared_singular_values_over_n(w: np.ndarray) -> None:
    s = spectrum(w)
    singular = np.linalg.svd(w, compute_uv=False)[::-1]
    assert (s.n, s.p) == (max(w.shape), min(w.shape))
    # A Gram matrix in float64 is off by a few eps · s₁² · p.
    tolerance = 1e-14 * s.p * max(singular[-1] ** 2, 1e-300)
    np.testing.assert_allclose(s.eigenvalues * s.n, singular**2, rtol=1e-10, atol=tolerance)
    assert s.eigenvalues.sum() * s.n == pytest.approx(np.sum(w**2), rel=1e-12, abs=1e-12)


@given(MATRICES)
def test_transposing_changes_nothing(w: np.ndarray) -> None:
    a, b = spectrum(w), spectrum(w.T)
    np.testing.assert_allclose(a.eigenvalues, b.eigenvalues, rtol=1e-9, atol=1e-12)
    assert (a.n, a.p) == (b.n, b.p)


@given(MATRICES.filter(lambda w: bool(w.any())), st.integers(-900, 900))
def test_scaling_by_a_power_of_two_scales_exactly(w: np.ndarray, power: int) -> None:
    """Squares of huge and tiny weights neither overflow nor vanish inside the Gram matrix."""
    if abs(power) > 450:  # eigenvalues themselves would leave the range of float64
        power //= 2
    scaled = spectrum(w * 2.0**power).eigenvalues
    np.testing.assert_array_equal(scaled, spectrum(w).eigenvalues * 4.0**power)


@given(MATRICES, st.data())
def test_truncation_error_is_the_sum_of_what_is_dropped(w: np.ndarray, data: st.DataObject) -> None:
    s = spectrum(w, vectors=True)
    rank = data.draw(st.integers(0, s.p))
    factors = factorize(w, s, rank)
    assert factors.left.shape == (w.shape[0], rank)
    assert factors.right.shape == (rank, w.shape[1])
    error = np.linalg.norm(w - factors.product)
    dropped = np.linalg.svd(w, compute_uv=False)[rank:]
    norm = np.linalg.norm(w)
    assert error == pytest.approx(np.linalg.norm(dropped), abs=1e-7 * max(norm, 1e-300))
    # relative_error comes from squares: below sqrt(eps) it is rounding.
    assert s.relative_error(rank) * norm == pytest.approx(error, abs=1e-6 * max(norm, 1e-300))


@pytest.mark.parametrize("shape", [(40, 25), (25, 40), (30, 30)])
def test_factors_share_the_singular_values_evenly(shape: tuple[int, int]) -> None:
    w = np.random.default_rng(0).standard_normal(shape)
    factors = factorize(w, spectrum(w, vectors=True), 5)
    top = np.linalg.svd(w, compute_uv=False)[:5]
    np.testing.assert_allclose(np.linalg.norm(factors.left, axis=0) ** 2, top, rtol=1e-10)
    np.testing.assert_allclose(np.linalg.norm(factors.right, axis=1) ** 2, top, rtol=1e-10)


@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64])
def test_small_singular_values_survive_the_gram_matrix(dtype: type) -> None:
    """A float32 Gram matrix would be off by 6–130 % here; float64 resolves 1e-5 of the largest."""
    rng = np.random.default_rng(1)
    u = np.linalg.qr(rng.standard_normal((60, 60)))[0]
    v = np.linalg.qr(rng.standard_normal((60, 60)))[0]
    w = (u * np.geomspace(1, 1e-3, 60) @ v.T).astype(dtype)
    exact = np.linalg.svd(w.astype(np.float64), compute_uv=False)[::-1]
    np.testing.assert_allclose(np.sqrt(spectrum(w).eigenvalues * 60), exact, rtol=1e-7)


def test_a_low_rank_matrix_has_exact_zeros() -> None:
    rng = np.random.default_rng(2)
    w = rng.standard_normal((200, 7)) @ rng.standard_normal((7, 90))
    assert np.count_nonzero(spectrum(w).eigenvalues) == 7


def test_blocks_of_rows_add_up(monkeypatch: pytest.MonkeyPatch) -> None:
    w = np.random.default_rng(3).standard_normal((101, 17)).astype(np.float32)
    whole = spectrum(w).eigenvalues
    monkeypatch.setattr("rmtcli.spectra.gram._BLOCK_BYTES", 8 * 17 * 10)
    np.testing.assert_allclose(spectrum(w).eigenvalues, whole, rtol=1e-12)


@pytest.mark.parametrize("bad", [np.zeros(3), np.zeros((0, 3)), np.zeros((2, 2, 2))])
def test_only_matrices_have_a_spectrum(bad: np.ndarray) -> None:
    with pytest.raises(ValueError, match="needs a matrix"):
        spectrum(bad)


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_values_that_are_not_finite_are_refused(value: float) -> None:
    w = np.ones((3, 3))
    w[1, 1] = value
    with pytest.raises(ValueError, match="not finite"):
        spectrum(w)


def test_factors_need_vectors_and_a_rank_in_range() -> None:
    w = np.eye(4)
    with pytest.raises(ValueError, match="vectors"):
        factorize(w, spectrum(w), 2)
    with pytest.raises(ValueError, match="from 0 to 4"):
        factorize(w, spectrum(w, vectors=True), 5)
