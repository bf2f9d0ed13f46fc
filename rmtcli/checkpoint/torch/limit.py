"""A limit on memory while a pickle is read.

A pickle of some bytes can request any amount, by calls that torch's ``weights_only`` allows:
``bytearray``, texts that are encoded over and over.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

#: Bytes of memory that reading a torch file may take beyond a multiple of its size.
HEADROOM = 2**30
_USED = Path("/proc/self/statm")


@contextmanager
def limited(size: int) -> Iterator[None]:
    """Let the process allocate no more than ``size`` further bytes of address space.

    A tighter limit that is in force stays. Where the system does not tell how much is in use, which
    only Linux does, there is no limit.

    Raises:
        MemoryError: the block has requested more.
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
