"""A limit on memory while a pickle is read: a small one can ask for any amount."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

#: Bytes that a torch file may take beyond what goes with its size.
HEADROOM = 2**30
_USED = Path("/proc/self/statm")


@contextmanager
def limited(size: int) -> Iterator[None]:
    """Let the process take no more than ``size`` further bytes of address space.

    Where the system does not tell how much is in use (it is Linux that does), there is no limit. A
    tighter one that is in force stays.

    Raises:
        MemoryError: more is asked for.
    """
    if not _USED.exists():
        yield
        return
    import resource

    old = resource.getrlimit(resource.RLIMIT_AS)
    used = int(_USED.read_text().split()[0]) * os.sysconf("SC_PAGE_SIZE")
    tightest = min(limit for limit in (used + size, *old) if limit != resource.RLIM_INFINITY)
    resource.setrlimit(resource.RLIMIT_AS, (tightest, old[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_AS, old)
