"""The tridiagonal form, compared with numpy, and BLAS without Python's lock."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from safetensors.numpy import save_file

import rmtcli
from rmtcli.layers import SkipReason
from rmtcli.spectra import tridiagonal
from rmtcli.spectra.lapack import call
from rmtcli.spectra.tridiagonal import Tridiagonal, reduce
from tests.conftest import noise, with_singular_values


def form(matrix: np.ndarray) -> Tridiagonal:
    return reduce(np.array(matrix, order="F"))


@given(st.integers(1, 30), st.integers(0, 5), st.data())
def test_values_and_leading_vectors_are_those_of_the_matrix(
    p: int, seed: int, data: st.DataObject
) -> None:
    count = data.draw(st.integers(0, p))
    w = noise((p + 3, p), seed=seed)
    gram = w.T @ w
    reduced = form(gram)
    values, vectors = reduced.values(), reduced.vectors(count)
    size = float(np.trace(gram))
    np.testing.assert_allclose(values, np.linalg.eigvalsh(gram), atol=1e-14 * size)
    assert vectors.shape == (p, count)
    # Backward errors are p·eps of the norm.
    np.testing.assert_allclose(
        gram @ vectors, vectors * values[::-1][:count], atol=1e-14 * size, rtol=0
    )
    np.testing.assert_allclose(vectors.T @ vectors, np.eye(count), atol=1e-13)


@pytest.mark.parametrize(
    "values",
    [
        np.ones(40),
        np.zeros(40),
        np.repeat([0.0, 1.0, 1e6], [20, 10, 10]),
        np.concatenate([np.zeros(30), np.geomspace(1e-12, 1, 10)]),
        np.geomspace(1e-300, 1e-290, 40),
    ],
)
def test_equal_zero_and_tiny_values(values: np.ndarray) -> None:
    q = np.linalg.qr(noise((40, 40)))[0]
    matrix = q * values @ q.T
    reduced = form((matrix + matrix.T) / 2)
    vectors = reduced.vectors(40)
    largest = float(values.max())
    np.testing.assert_allclose(reduced.values(), values, atol=1e-13 * largest)
    np.testing.assert_allclose(vectors.T @ vectors, np.eye(40), atol=1e-12)
    np.testing.assert_allclose(
        matrix @ vectors, vectors * values[::-1], atol=1e-13 * largest, rtol=0
    )


def test_the_upper_half_is_never_read() -> None:
    matrix = noise((30, 30))
    lower = np.tril(matrix @ matrix.T)
    hidden = lower + np.triu(np.full((30, 30), np.nan), 1)
    np.testing.assert_array_equal(form(lower).values(), form(hidden).values())
    np.testing.assert_array_equal(form(lower).vectors(4), form(hidden).vectors(4))


def test_a_failure_of_lapack_has_a_fallback(monkeypatch: pytest.MonkeyPatch) -> None:
    matrix = with_singular_values(np.arange(1.0, 31.0))
    gram = matrix.T @ matrix
    usual = form(gram).vectors(5)

    for routines in (("dstein",), ("dstein", "dstemr")):
        monkeypatch.setattr(tridiagonal, "call", failing(*routines))
        other = form(gram).vectors(5)
        np.testing.assert_allclose(np.abs(np.sum(usual * other, axis=0)), 1, rtol=1e-12)


def test_many_vectors_and_few_are_the_same() -> None:
    w = noise((300, 150), seed=3)
    reduced = form(w.T @ w)
    few, many = reduced.vectors(128), reduced.vectors(129)
    np.testing.assert_allclose(np.abs(np.sum(few * many[:, :128], axis=0)), 1, rtol=1e-12)


def test_the_matrix_is_kept_where_it_is_asked_for() -> None:
    for p in (1, 64, 65, 200):
        w = noise((p + 5, p), seed=p)
        lower = np.asfortranarray(np.tril(w.T @ w))
        kept = reduce(lower.copy(order="F"), keep=True)
        original = kept.original()
        assert original is not None
        np.testing.assert_array_equal(original, lower)
        np.testing.assert_array_equal(kept.values(), form(lower).values())
        assert form(lower).original() is None


@pytest.mark.parametrize("count", [-1, 4])
def test_more_vectors_than_rows_are_an_error(count: int) -> None:
    with pytest.raises(ValueError, match="a matrix of size 3 does not have"):
        form(np.eye(3)).vectors(count)


def test_failures_of_lapack_are_errors() -> None:
    with pytest.raises(np.linalg.LinAlgError, match="dpotrf failed with 2"):
        call("dpotrf", "L", 2, np.array([[1.0, 2.0], [2.0, 1.0]], order="F"), 2)
    with pytest.raises(AttributeError, match="SciPy has no dnothing"):
        call("dnothing")


def test_other_threads_run_meanwhile() -> None:
    """With SciPy's wrappers the counter would not advance, because threads wait."""
    matrix = np.asfortranarray(noise((900, 900)))
    gram = matrix @ matrix.T
    counted, stop = [0], threading.Event()

    def count() -> None:
        while not stop.is_set():
            counted[0] += 1
            time.sleep(0)

    thread = threading.Thread(target=count)
    thread.start()
    before = counted[0]
    form(gram)
    after = counted[0]
    stop.set()
    thread.join()
    assert after - before > 10


def failing(*routines: str) -> Callable[..., None]:
    def run(routine: str, *arguments: object) -> None:
        if routine in routines:
            raise np.linalg.LinAlgError(f"{routine} failed with 1")
        call(routine, *arguments)  # type: ignore[arg-type]

    return run


def test_values_where_the_first_solver_does_not_converge(monkeypatch: pytest.MonkeyPatch) -> None:
    reduced = form(noise((50, 50)) @ noise((50, 50)).T)
    expected = reduced.values()
    monkeypatch.setattr(tridiagonal, "call", failing("dsterf"))
    np.testing.assert_allclose(reduced.values(), expected, atol=1e-13 * expected[-1])


def test_a_layer_that_no_solver_can_decompose_is_left_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tridiagonal, "call", failing("dsytrd"))
    path = tmp_path / "a.safetensors"
    save_file({"a.weight": noise((64, 64)).astype(np.float32)}, path)
    report = rmtcli.prune(path, tmp_path / "b.safetensors")
    (skipped,) = report.skipped
    assert skipped.reason is SkipReason.NO_CONVERGENCE
    assert report.output is None
