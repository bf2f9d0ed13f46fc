"""Decompositions hold few matrices in float64, and never a table of tokens as a whole."""

from __future__ import annotations

import tracemalloc
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any, TypeVar, cast

import numpy as np
import pytest

from rmtcli.calibration import Folder, Moments, decompose, smoothed, tables
from rmtcli.layers import Layer
from rmtcli.planning import StoredDecomposition
from rmtcli.spectra import gram

T = TypeVar("T")
WIDTH, TOKENS, BLOCK = 32, 60_000, 2**20


def allocated(compute: Callable[[], T]) -> tuple[T, int]:
    """The result of a computation, and the most bytes that its arrays took at a time."""
    tracemalloc.start()
    try:
        return compute(), tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


def table() -> np.ndarray:
    """A table in float32 as a layer holds it, shape (width, tokens)."""
    return np.random.default_rng(0).standard_normal((TOKENS, WIDTH), dtype=np.float32).T


def moments_of(weight: np.ndarray) -> Moments:
    """Moments of a table's outputs, of which each token makes one."""
    rows = weight.T.astype(np.float64)
    of_outputs = {"of_outputs": True, "independent": 500.0}
    second = rows.T @ rows / TOKENS + np.eye(WIDTH)
    return Moments(TOKENS, 500, rows.mean(0), second, np.cov(rows[:100].T), **of_outputs)


@pytest.fixture(autouse=True)
def _small_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    for module in (gram, tables):
        monkeypatch.setattr(module, "_BLOCK_BYTES", BLOCK)


def test_a_table_is_decomposed_without_a_copy_in_float64() -> None:
    weight = table()
    moments = moments_of(weight)
    options = {"bias": False, "gradients": True}
    exact = decompose(weight, moments, **options)
    maps, most = allocated(lambda: decompose(weight, moments, dtype=np.float32, **options))
    assert most < 8 * weight.size
    assert maps.right.dtype == np.float32
    np.testing.assert_allclose(maps.losses, exact.losses, rtol=1e-12)
    product = exact.factors(9).product
    np.testing.assert_allclose(maps.factors(9).product, product, atol=1e-6 * np.abs(product).max())


def test_a_table_is_smoothed_without_a_copy_in_float64() -> None:
    weight = table()
    moments = moments_of(weight)
    smooth, most = allocated(lambda: smoothed(moments, weight))
    assert most < 4 * weight.size
    flat = weight.astype(np.float64) @ weight.T.astype(np.float64)
    share = WIDTH / (WIDTH + TOKENS)
    second = (1 - share) * moments.second + share * np.trace(moments.second) / np.trace(flat) * flat
    np.testing.assert_allclose(smooth.second, second)


def test_factors_of_a_stored_table_take_the_memory_of_their_rank(tmp_path: Path) -> None:
    weight, folder = table(), Folder.at(tmp_path / "maps", "{}")
    layer = cast(Layer, SimpleNamespace(name="table", dtype="BF16"))
    options: dict[str, Any] = {"bias": False, "gradients": False, "dtype": np.float32}
    maps = decompose(weight, moments_of(weight), **options)
    stored = StoredDecomposition.put(folder, layer, maps)
    factors, most = allocated(lambda: stored.factors(2))
    assert factors.right.dtype == np.float64
    assert most < 6 * weight.size  # as it is stored, in float32, and two rows in float64


def test_a_tall_layer_takes_one_matrix_beside_the_moment_of_its_gradients() -> None:
    n, few = 500, 20
    rng = np.random.default_rng(0)
    weight, rows = rng.standard_normal((n, few)), rng.standard_normal((2 * n, n))
    moments = Moments(2 * n, 2 * n, np.zeros(few), np.eye(few), rows.T @ rows / (2 * n))
    _, most = allocated(lambda: decompose(weight, moments, bias=False, gradients=True))
    assert most < 1.5 * 8 * n**2
