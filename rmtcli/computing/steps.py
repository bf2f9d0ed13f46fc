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


class Teller:
    """Logs how far a loop is: its records' attributes tell a status line the progress.

    Records have the level DEBUG, but at most one in each tenth of the loop has the level INFO.
    """

    def __init__(self) -> None:
        self._told, self._last = 0, time.monotonic()

    def tell(self, label: str, done: int, total: int) -> None:
        """Log that ``done`` of ``total`` steps are done.

        Args:
            label: what is done.
            done: number of steps before the current one.
            total: number of all steps.
        """
        level, now, tenth = logging.DEBUG, time.monotonic(), 10 * done // total
        if tenth > self._told and now - self._last >= PAUSE:
            level, self._told, self._last = logging.INFO, tenth, now
        extra = {"label": label, "done": done, "total": total}
        _LOGGER.log(level, "%s: %d of %d", label, done, total, extra=extra)


def tracked(items: Sequence[T], label: str) -> Iterator[T]:
    """Iterate, with a log record before each item (:class:`Teller`).

    Args:
        items: the batches, or whatever takes long.
        label: what is done with them.

    Yields:
        The items, in order.
    """
    teller = Teller()
    for done, item in enumerate(items):
        teller.tell(label, done, len(items))
        yield item
