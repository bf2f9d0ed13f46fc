"""Layers computed in parallel: order of the results, memory bounds, BLAS threads."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from threadpoolctl import threadpool_info, threadpool_limits

import rmtcli
from rmtcli.computing import cores, here, in_order
from rmtcli.computing.here import run_ahead
from rmtcli.spectra import spectrum
from tests.conftest import SAMPLES, noise


def threads() -> set[int]:
    return {pool["num_threads"] for pool in threadpool_info() if pool["user_api"] == "blas"}


@pytest.fixture(params=[1, 2, 5])
def workers(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> int:
    monkeypatch.setattr(here, "cores", lambda: request.param)
    return int(request.param)


@pytest.fixture(autouse=True)
def _three_blas_threads() -> Iterator[None]:
    """A number that no limit in these tests equals, so that it has to be restored."""
    with threadpool_limits(3, "blas"):
        yield


@pytest.mark.parametrize("own_executor", [False, True])
def test_results_come_in_order(workers: int, own_executor: bool) -> None:
    delays = np.random.default_rng(0).uniform(0, 0.005, 40)

    def slow(i: int) -> int:
        threading.Event().wait(delays[i])
        return i

    with ThreadPoolExecutor(3) as pool:
        if own_executor:
            results = run_ahead(slow, range(40), pool, limit=5)
        else:
            results = in_order(slow, range(40), weigh=lambda i: 1, room=10)
        assert list(results) == list(range(40))


def test_memory_of_items_in_progress_is_bounded(workers: int) -> None:
    """An item counts from its start until its result is yielded."""
    sizes = [1, 5, 2, 2, 9, 1, 1, 1, 30, 1, 4, 4]
    started: list[int] = []

    def items() -> Iterator[int]:
        for i in range(len(sizes)):
            started.append(i)
            yield i

    taken = 0
    for i in in_order(lambda i: i, items(), weigh=lambda i: sizes[i], room=10):
        # The newest item may still wait to be submitted; a single item always runs.
        ahead = started[taken + 1 : -1]
        assert sum(sizes[j] for j in ahead) <= 10 or len(ahead) <= 1
        assert len(ahead) <= 2 * workers
        taken = i
    assert len(started) == len(sizes)


def test_large_items_run_alone_with_all_threads(workers: int) -> None:
    before, lock, running = threads(), threading.Lock(), set()

    def work(i: int) -> tuple[int, set[int], str]:
        with lock:
            running.add(i)
            in_progress = set(running)
        threading.Event().wait(0.002)
        with lock:
            running.discard(i)
        assert i % 4 or in_progress == {i}
        return i, threads(), threading.current_thread().name

    results = list(in_order(work, range(12), weigh=lambda i: 1, room=10, alone=lambda i: not i % 4))
    assert [i for i, *_ in results] == list(range(12))
    for i, seen, name in results:
        if i % 4:
            assert seen == {1}
            assert name.startswith("rmtcli") or workers == 1
        else:
            assert max(seen) <= workers
            assert name == threading.current_thread().name
    assert threads() == before


def test_an_error_is_raised_in_place_of_its_result(workers: int) -> None:
    results = in_order(lambda i: 1 / (3 - i), range(100), weigh=lambda i: 1, room=8)
    assert [next(results) for _ in range(3)] == [1 / 3, 1 / 2, 1]
    with pytest.raises(ZeroDivisionError):
        next(results)


def test_a_caller_that_stops_early_waits_only_for_started_items(workers: int) -> None:
    started: list[int] = []
    results = in_order(started.append, range(1000), weigh=lambda i: 1, room=4)
    next(results)
    results.close()  # type: ignore[attr-defined]
    assert len(started) <= 8


def test_the_limit_of_a_container_counts_as_cores(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    limit = tmp_path / "cpu.max"
    for text, expected in (("150000 100000", 2), ("50000 100000", 1), ("max 100000", 10**6)):
        limit.write_text(text)
        found = here._container_cores(limit)
        assert found == expected or expected == 10**6 < found
    assert here._container_cores(tmp_path / "missing") > 10**6
    monkeypatch.setattr(here, "_container_cores", lambda: 1)
    assert cores() == 1


def test_the_report_does_not_depend_on_the_number_of_workers(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    reports, files = [], []
    for count in (1, 2, 7):
        monkeypatch.setattr(here, "cores", lambda count=count: count)
        reports.append(rmtcli.analyze(SAMPLES / "mnist_deep.pt").to_dict())
        target = tmp_path / f"{count}.safetensors"
        rmtcli.prune(SAMPLES / "planted.safetensors", target, keep="edge")
        files.append(target.read_bytes())
    assert reports[0] == reports[1] == reports[2]
    assert files[0] == files[1] == files[2]


def test_a_thread_computes_the_same_spectrum_as_the_main_thread() -> None:
    w = noise((300, 200))
    with ThreadPoolExecutor(1) as pool:
        in_thread = pool.submit(spectrum, w).result()
    np.testing.assert_allclose(in_thread.eigenvalues, spectrum(w).eigenvalues, rtol=1e-12)
