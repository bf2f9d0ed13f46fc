"""The cache returns what it stored, and computes damaged entries again."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

import rmtcli
import rmtcli.computing.cache
from rmtcli.computing import Cache
from rmtcli.errors import UsageError
from rmtcli.planning import Budget
from rmtcli.spectra import spectrum
from tests.conftest import SAMPLES, noise

PLANTED = SAMPLES / "planted.safetensors"


@pytest.fixture
def decomposed(monkeypatch: pytest.MonkeyPatch) -> list[tuple[int, ...]]:
    """Shapes of the weights that were decomposed because the cache did not hold them."""
    shapes: list[tuple[int, ...]] = []

    def watched(weight: np.ndarray, *, vectors: bool) -> object:
        shapes.append(weight.shape)
        return spectrum(weight, vectors=vectors)

    monkeypatch.setattr(rmtcli.computing.cache, "spectrum", watched)
    return shapes


@pytest.mark.parametrize("shape", [(1, 1), (2, 1), (2, 2), (60, 25), (25, 60), (40, 40)])
def test_a_cached_spectrum_equals_the_computed_one(
    tmp_path: Path, shape: tuple[int, int], decomposed: list[tuple[int, ...]]
) -> None:
    cache, w = Cache.at(tmp_path / "new" / "folder"), noise(shape)
    computed, cached = (cache.spectrum(w, vectors=True) for _ in range(2))
    assert decomposed == [shape]
    np.testing.assert_array_equal(cached.eigenvalues, computed.eigenvalues)
    assert (cached.n, cached.p) == (computed.n, computed.p)
    for count in {0, 1, min(shape)}:
        np.testing.assert_array_equal(cached.leading(count), computed.leading(count))
    assert cache.spectrum(w).form is None
    (file,) = (tmp_path / "new" / "folder").iterdir()
    assert file.stat().st_size <= 4 * min(shape) ** 2 + 28 * min(shape) + 32


def test_each_weight_has_a_file_of_its_own(
    tmp_path: Path, decomposed: list[tuple[int, ...]]
) -> None:
    w = noise((30, 20))
    for weight in (w, w.T, np.asfortranarray(w), w.astype(np.float32), w.reshape(20, 30), w + 1):
        cached = Cache.at(tmp_path).spectrum(weight)
        np.testing.assert_array_equal(cached.eigenvalues, spectrum(weight).eigenvalues)
    assert len(decomposed) == len(list(tmp_path.iterdir())) == 5  # memory order does not matter


@pytest.mark.parametrize(
    "damage",
    [
        lambda data: data[:-1],
        lambda data: data + b"x",
        lambda data: b"",
        lambda data: bytes([data[0] ^ 1]) + data[1:],
        lambda data: data[:-1] + bytes([data[-1] ^ 1]),
    ],
)
def test_a_damaged_file_is_computed_and_written_again(
    tmp_path: Path, damage: Callable[[bytes], bytes], decomposed: list[tuple[int, ...]]
) -> None:
    cache, w = Cache.at(tmp_path), noise((30, 20))
    cache.spectrum(w)
    (file,) = tmp_path.iterdir()
    whole = file.read_bytes()
    file.write_bytes(damage(whole))
    np.testing.assert_array_equal(cache.spectrum(w).eigenvalues, spectrum(w).eigenvalues)
    assert len(decomposed) == 2
    assert [path.read_bytes() for path in tmp_path.iterdir()] == [whole]


def test_pruning_after_analysing_decomposes_nothing_again(
    tmp_path: Path, decomposed: list[tuple[int, ...]]
) -> None:
    folder = tmp_path / "cache"
    plain = rmtcli.prune(PLANTED, tmp_path / "a.safetensors")
    first = rmtcli.analyze(PLANTED, cache=folder)
    shapes = list(decomposed)
    assert len(shapes) == len(first.layers)
    again = rmtcli.analyze(PLANTED, cache=folder)
    cached = rmtcli.prune(PLANTED, tmp_path / "b.safetensors", cache=folder)
    budget = rmtcli.prune(PLANTED, cache=folder, budget=Budget("50%"), dry_run=True)
    assert decomposed == shapes
    assert first.to_dict() == again.to_dict()
    assert budget.pruned
    assert (tmp_path / "a.safetensors").read_bytes() == (tmp_path / "b.safetensors").read_bytes()
    assert plain.plan == cached.plan


def test_a_cache_that_is_not_a_folder_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(UsageError, match="cannot create this folder for the cache"):
        rmtcli.analyze(PLANTED, cache=tmp_path / "file")
