"""Arrays in files of a folder."""

from __future__ import annotations

import gc
import time
import warnings
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np

from rmtcli.calibration import Folder


def test_threads_read_at_once() -> None:
    """In Python 3.11, headers that are parsed at once can end in a SystemError."""

    def read(depth: int) -> None:
        if depth:  # each thread is at another depth of calls
            read(depth - 1)
        for _ in range(0 if depth else 200):
            np.testing.assert_array_equal(folder.read("x")["a"], [1.0, 2.0])

    def let_others_run(*_: Any) -> None:
        time.sleep(0)

    folder, threshold = Folder(), gc.get_threshold()
    folder.put("x", {"a": np.array([1.0, 2.0])})
    gc.callbacks.append(let_others_run)
    gc.set_threshold(20)
    try:
        with ThreadPoolExecutor(4) as pool:
            list(pool.map(read, range(0, 20, 5)))
    finally:
        gc.set_threshold(*threshold)
        gc.callbacks.remove(let_others_run)


def test_a_folder_is_deleted_with_its_object() -> None:
    folder = Folder()
    folder.put("x", {"a": np.zeros(2)})
    path = folder.path
    with warnings.catch_warnings(action="error"):
        del folder
        gc.collect()
    assert not path.exists()
