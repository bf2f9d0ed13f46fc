"""Tell how far a long loop is, through the logger, without knowing who listens."""

from __future__ import annotations

import logging
import time
from collections.abc import Iterator, Sequence
from typing import TypeVar

_LOGGER = logging.getLogger(__name__)

#: Seconds between two records of level INFO, so that a loop that ends soon has none.
PAUSE = 5.0

T = TypeVar("T")


def tracked(items: Sequence[T], label: str) -> Iterator[T]:
    """Iterate, with a log record before each item: its attributes tell a status line the progress.

    Records have the level DEBUG, but at most one in each tenth of the loop has the level INFO.

    Args:
        items: the batches, or whatever takes long.
        label: what is done with them.

    Yields:
        The items, in order.
    """
    told, last, total = 0, time.monotonic(), len(items)
    for done, item in enumerate(items):
        level, now, tenth = logging.DEBUG, time.monotonic(), 10 * done // total
        if tenth > told and now - last >= PAUSE:
            level, told, last = logging.INFO, tenth, now
        extra = {"label": label, "done": done, "total": total}
        _LOGGER.log(level, "%s: %d of %d", label, done, total, extra=extra)
        yield item
