"""Compute layers in this process: small ones in parallel, large ones one by one on all cores."""

from __future__ import annotations

import math
import os
import sys
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Executor, Future, ThreadPoolExecutor
from itertools import groupby
from pathlib import Path
from typing import TypeVar

from threadpoolctl import threadpool_info, threadpool_limits

from rmtcli.errors import UsageError

T = TypeVar("T")
R = TypeVar("R")


def in_order(
    function: Callable[[T], R],
    items: Iterable[T],
    *,
    weigh: Callable[[T], int],
    room: int,
    alone: Callable[[T], bool] = lambda item: False,
) -> Iterator[R]:
    """Yield the function's result for each item, in the items' order, computing some ahead.

    Items that run in parallel have one BLAS thread each: no thread waits for another, and results
    do not depend on the number of workers. An item for which ``alone`` is true runs in the caller's
    thread, with one BLAS thread per core, while no other item runs.

    Args:
        function: the computation; it may run in another thread.
        items: input items; each is taken when its computation starts.
        weigh: bytes of memory that an item needs until its result is yielded.
        room: bytes of memory for all items in progress together; one item may exceed it.
        alone: whether an item is large enough to keep all cores busy.
    """
    workers = cores()
    if workers == 1:  # no extra thread, which could die of too little memory before it answers
        with threadpool_limits(1, "blas"):
            yield from map(function, items)
        return
    with ThreadPoolExecutor(workers, "rmtcli", _one_thread) as pool:
        for single, group in groupby(items, alone):
            with threadpool_limits(workers if single else 1, "blas"):
                if single:
                    yield from map(function, group)
                else:
                    limit = 2 * workers
                    yield from run_ahead(function, group, pool, limit=limit, weigh=weigh, room=room)


def with_blas_threads(function: Callable[[T], R], alone: Callable[[T], bool], item: T) -> R:
    """Call the function on one item, with as many BLAS threads as :func:`in_order` would use."""
    with threadpool_limits(cores() if alone(item) else 1, "blas"):
        return function(item)


def cores() -> int:
    """Number of cores that this process may use, at most ``OMP_NUM_THREADS`` if that is set.

    A container's CPU limit counts as well: BLAS threads without a core of their own keep all others
    waiting.
    """
    pools = threadpool_info()
    threads = [int(pool["num_threads"]) for pool in pools if pool["user_api"] == "blas"]
    allowed = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    return min([allowed or 1, _container_cores(), *threads])


def device_of(name: str) -> str:
    """The device that a user's name stands for: ``auto`` is the accelerator that torch has.

    Raises:
        UsageError: the name is one that torch does not know.
    """
    if name.lower().startswith("gpu"):
        raise UsageError(f"unknown device '{name}': write cuda, mps on a Mac, or auto")
    if name != "auto":
        return name
    from rmtcli.computing.device import best_device  # needs torch

    return best_device()


def _container_cores(limits: Path = Path("/sys/fs/cgroup/cpu.max")) -> int:
    """CPU limit that Linux sets for this process's container, in cores, rounded up."""
    try:
        time, period = limits.read_text().split()
        return max(1, math.ceil(int(time) / int(period)))
    except (OSError, ValueError):  # no container, no limit, or not Linux
        return sys.maxsize


def memory(limit: Path = Path("/sys/fs/cgroup/memory.max")) -> int:
    """Bytes of memory of this machine, or of this process's container if that has less."""
    try:
        whole = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    except (AttributeError, ValueError, OSError):  # not on Windows
        return sys.maxsize
    try:
        return min(whole, int(limit.read_text()))
    except (OSError, ValueError):  # no container, no limit, or not Linux
        return whole


def _one_thread() -> None:
    threadpool_limits(1, "blas")  # some BLAS libraries keep this setting per thread


def run_ahead(
    function: Callable[[T], R],
    items: Iterable[T],
    executor: Executor,
    *,
    limit: int,
    weigh: Callable[[T], int] = lambda item: 0,
    room: int = sys.maxsize,
) -> Iterator[R]:
    """Yield the function's result for each item, in the items' order, computed by an executor.

    Args:
        function: the computation; it runs where the executor runs it.
        items: input items; each is taken when it is submitted.
        executor: the executor to submit to.
        limit: largest number of items submitted whose results were not yielded yet.
        weigh: bytes of memory that an item needs until its result is yielded.
        room: bytes of memory for all these items together; one item may exceed it.
    """
    waiting: deque[tuple[Future[R], int]] = deque()
    used = 0
    try:
        for item in items:
            weight = weigh(item)
            while waiting and (used + weight > room or len(waiting) >= limit):
                used -= waiting[0][1]
                yield waiting.popleft()[0].result()
            waiting.append((executor.submit(function, item), weight))
            used += weight
        while waiting:
            yield waiting.popleft()[0].result()
    finally:
        for future, _ in waiting:
            future.cancel()
