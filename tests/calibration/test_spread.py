"""Sums over batches, in one process or merged from several, are the moments of all rows."""

from __future__ import annotations

import pickle

import numpy as np
import pytest
import torch

from rmtcli.calibration.spread import Spread
from rmtcli.calibration.sums import Sums
from rmtcli.calibration.symmetric import half, whole


def spread(batches: list[np.ndarray]) -> Spread:
    made = Spread(centred=True)
    made.centre = np.full(batches[0].shape[1], 0.5)
    for rows in batches:
        made.add(len(rows), rows.sum(0), half(rows.T @ rows))
    return made


def independent(batches: list[np.ndarray]) -> float:
    """The number of independent samples by its definition."""
    rows = np.concatenate(batches)
    mean = rows.mean(0)
    c = (rows - mean).T @ (rows - mean) / len(rows)
    parts = [(x - mean).T @ (x - mean) - len(x) * c for x in batches]
    k = len(batches)
    noise = sum(float((x**2).sum()) for x in parts) / len(rows) ** 2 * k / (k - 1)
    square = float((c**2).sum())
    return (np.trace(c) ** 2 + max(square - noise, np.trace(c) ** 2 / len(c))) / noise


@pytest.mark.parametrize("width", [7, 300])
@pytest.mark.parametrize("lengths", [(6, 6, 6, 6, 6, 6), (6, 6, 5, 5, 4, 4), (6, 5, 4, 3, 2, 1)])
def test_merged_sums_are_those_of_all_batches(lengths: tuple[int, ...], width: int) -> None:
    rng = np.random.default_rng(0)
    batches = [rng.standard_normal((n, width)) + 0.5 for n in lengths]
    total, *others = [pickle.loads(pickle.dumps(spread(batches[k : k + 2]))) for k in (0, 2, 4)]
    for other in others:
        total.merge(other)
    at_once, rows = spread(batches), np.concatenate(batches)
    assert total.independent == pytest.approx(at_once.independent, rel=1e-9)
    for sums in (total, at_once):
        np.testing.assert_allclose(sums.outer, rows.T @ rows, rtol=1e-9, atol=1e-9)
        assert np.array_equal(sums.outer, sums.outer.T)


def test_the_number_of_independent_samples_is_that_of_its_definition() -> None:
    rng = np.random.default_rng(0)
    batches = [rng.standard_normal((n, 300)) for n in (40, 40, 30, 50)]
    sums = Sums()
    sums.spread.centre = np.concatenate(batches).mean(0)
    for rows in batches:
        sums.add(torch.from_numpy(rows))
        sums.close()
    assert np.isfinite(sums.averages[1]).all()
    assert sums.spread.independent == pytest.approx(independent(batches), rel=1e-9)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("counts", [(3,), (50, 2), (2, 50)])
def test_rows_of_a_batch_add_up(dtype: torch.dtype, counts: tuple[int, ...]) -> None:
    generator = torch.Generator().manual_seed(0)
    rows = [torch.randn(n, 40, generator=generator) for n in counts]
    sums = Sums(dtype=dtype)
    for x in rows:
        sums.add(x[:, ::2])  # not contiguous
    sums.add(torch.empty(0, 20))
    sums.close(apart=True)
    x = torch.cat(rows)[:, ::2].double().numpy()
    precise = {"rtol": 1e-5, "atol": 1e-4} if dtype == torch.float32 else {"rtol": 1e-12}
    assert sums.fold is not None
    np.testing.assert_allclose(whole(sums.fold[2]), x.T @ x, **precise)
    mean, second = sums.averages
    np.testing.assert_allclose(mean, x.mean(0), rtol=1e-6, atol=1e-7)
    np.testing.assert_allclose(second * len(x), x.T @ x, **precise)


def test_one_half_of_a_moment_is_sent() -> None:
    rows = np.random.default_rng(0).standard_normal((10, 100))
    sums = spread([rows, rows[:5]])
    assert len(pickle.dumps(sums)) < 1.1 * 2 * 8 * 100 * 101 / 2


@pytest.mark.parametrize("size", [1, 2, 5, 300])
def test_a_half_is_made_whole(size: int) -> None:
    matrix = np.random.default_rng(0).standard_normal((size, size))
    matrix += matrix.T
    assert half(matrix).shape == (size * (size + 1) // 2,)
    np.testing.assert_array_equal(whole(half(matrix)), matrix)
