"""Memory of the process: returned when it is freed, and checked before large libraries load."""

from __future__ import annotations

import atexit
import ctypes
import gc
import mmap
import os
import sys

#: glibc's options: the size from which an allocation has pages of its own, which are returned as
#: soon as it is freed, and how much freed memory of smaller ones is kept.
_MMAP_THRESHOLD, _TRIM_THRESHOLD, _BYTES = -3, -1, 8 * 2**20
#: Bytes of address space that both libraries take with the calling thread, and that each further
#: thread takes: 32 MB in each library, two stacks of 8 MB, and an arena of 64 MB.
_LIBRARIES, _PER_THREAD = 214 * 2**20, 144 * 2**20
#: OpenBLAS starts at most this many threads, as both libraries build it.
_MAX_THREADS = 64
#: New objects after which Python looks for cycles among them. Imports create tens of thousands of
#: objects and no cycles, and Python's own 700 would cost them a tenth of their time.
_NEW_OBJECTS = 100_000


def return_freed_memory() -> None:
    """Return large layers' memory when it is freed; glibc would keep blocks of up to 32 MB."""
    if sys.platform == "linux":
        mallopt = getattr(ctypes.CDLL(None), "mallopt", None)  # only glibc has it
        if mallopt is not None:
            mallopt(_MMAP_THRESHOLD, _BYTES)
            mallopt(_TRIM_THRESHOLD, 2 * _BYTES)


def collect_less_often() -> None:
    """Look for objects that refer to each other less often than Python does by default.

    At its exit Python looks three times among all objects, which takes as long as the analysis of
    a small network; their memory is the system's again right after it.
    """
    gc.set_threshold(_NEW_OBJECTS)
    atexit.register(gc.freeze)


def libraries_fit() -> bool:
    """Whether NumPy and SciPy can be loaded where address space is limited (``ulimit -v``).

    OpenBLAS never returns when it gets no memory: it retries for ever, even during its import.
    """
    setting = os.environ.get("OPENBLAS_NUM_THREADS") or os.environ.get("OMP_NUM_THREADS") or ""
    threads = int(setting) if setting.isdecimal() else min(os.cpu_count() or 1, _MAX_THREADS)
    try:
        mmap.mmap(-1, _LIBRARIES + threads * _PER_THREAD).close()
    except OSError:
        return False
    return True
