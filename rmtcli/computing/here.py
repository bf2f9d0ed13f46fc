"""Where layers are computed: small ones side by side, large ones one by one with all cores."""

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
    """The function of each item, in the items' order; some are computed ahead.

    Side by side, each item has one BLAS thread: no thread waits for another, and what comes out
    does not depend on how many workers there are. An item that is to be ``alone`` has as many BLAS
    threads as there are cores, and is computed by the caller's thread while no other is under way.

    Args:
        function: what to compute; it runs in another thread.
        items: taken one by one, each when it is started.
        weigh: memory that an item takes until its result is handed over, in bytes.
        room: memory for all items under way; one is always.
        alone: whether an item is large enough to keep all cores busy.
    """
    workers = cores()
    if workers == 1:  # no thread, and so none that a lack of memory could end before it answers
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
                    yield from elsewhere(function, group, pool, limit=limit, weigh=weigh, room=room)


def on_cores(function: Callable[[T], R], alone: Callable[[T], bool], item: T) -> R:
    """The function of an item, with as many BLAS threads as :func:`in_order` gives it."""
    with threadpool_limits(cores() if alone(item) else 1, "blas"):
        return function(item)


def cores() -> int:
    """Cores that this process may use, or fewer where BLAS was told so (``OMP_NUM_THREADS``).

    A container's share of them counts: BLAS threads without a core keep all others waiting.
    """
    pools = threadpool_info()
    threads = [int(pool["num_threads"]) for pool in pools if pool["user_api"] == "blas"]
    allowed = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    return min([allowed or 1, _share(), *threads])


def _share(limits: Path = Path("/sys/fs/cgroup/cpu.max")) -> int:
    """Cores that Linux gives this process's container at a time, rounded up."""
    try:
        time, period = limits.read_text().split()
        return max(1, math.ceil(int(time) / int(period)))
    except (OSError, ValueError):  # no container, no limit, or not Linux
        return sys.maxsize


def _one_thread() -> None:
    threadpool_limits(1, "blas")  # where BLAS keeps the number for each thread apart


def elsewhere(
    function: Callable[[T], R],
    items: Iterable[T],
    executor: Executor,
    *,
    limit: int,
    weigh: Callable[[T], int] = lambda item: 0,
    room: int = sys.maxsize,
) -> Iterator[R]:
    """The function of each item, in the items' order, computed ahead by an executor.

    Args:
        function: what to compute; it runs wherever the executor runs it.
        items: taken one by one, each when it is handed to the executor.
        executor: runs them.
        limit: items under way, or done and not yet asked for.
        weigh: memory that an item takes until its result is handed over, in bytes.
        room: memory for all of these; one item may exceed it.
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
