"""Logging and the progress line: what a command prints while it runs."""

from __future__ import annotations

import logging
import sys
import time
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any, TypeVar

from rmtcli.errors import UsageError, one_line

if TYPE_CHECKING:
    from rich.progress import Progress

T = TypeVar("T")

#: Every module of rmtcli logs to a child of this logger. Its level sets how much a command says.
_LOGGER = logging.getLogger("rmtcli")


def listen(*, quiet: bool, verbose: bool) -> None:
    """Set how much a command prints: only errors, results and progress, or every step.

    Raises:
        UsageError: both at once.
    """
    if quiet and verbose:
        raise UsageError("--quiet and --verbose exclude each other: give only one")
    finish()
    handler: logging.Handler
    if verbose:
        handler = logging.StreamHandler(sys.stderr)
        handler.setFormatter(_WithTraceback("%(asctime)s %(message)s", "%H:%M:%S"))
    elif not quiet and sys.stderr.isatty():
        handler = _StatusLine()
    else:
        handler = logging.NullHandler()
    _LOGGER.handlers = [handler]
    _LOGGER.propagate = False
    # A status line shows the steps too, each until the next one.
    level = logging.INFO if verbose else logging.WARNING
    if isinstance(handler, _StatusLine):
        level = logging.DEBUG  # every batch
    _LOGGER.setLevel(logging.ERROR if quiet else level)


def is_quiet() -> bool:
    """Whether --quiet is set, so that results are not printed either."""
    return not _LOGGER.isEnabledFor(logging.WARNING)


def finish() -> None:
    """Remove the status line, so that results can be printed."""
    for handler in _LOGGER.handlers:
        handler.close()


def progress(items: Sequence[T]) -> Iterator[T]:
    """Iterate over layers; a status line, if there is one, shows the progress."""
    for handler in _LOGGER.handlers:
        if isinstance(handler, _StatusLine):
            return handler.follow(items)
    return iter(items)


class _OneLine(logging.Formatter):
    """Formats a record on one line, whatever characters a name in it contains."""

    def format(self, record: logging.LogRecord) -> str:
        record.message = record.getMessage()
        if self.usesTime():
            record.asctime = self.formatTime(record, self.datefmt)
        return one_line(self.formatMessage(record))


class _WithTraceback(_OneLine):
    """Formats a record on one line, and the traceback of its error on those after it."""

    def format(self, record: logging.LogRecord) -> str:
        if not record.exc_info:
            return super().format(record)
        lines = self.formatException(record.exc_info).splitlines()
        return "\n".join([super().format(record), *map(one_line, lines)])


class _StatusLine(logging.Handler):
    """Shows the latest step on a terminal's last line, with a bar for layers and for batches."""

    def __init__(self) -> None:
        super().__init__(logging.DEBUG)
        self.setFormatter(_OneLine("%(message)s"))
        self.bar: Progress | None = None
        self.layers = False

    def emit(self, record: logging.LogRecord) -> None:
        """Show a step, except during :meth:`follow`, which shows the layers itself."""
        if self.layers:
            return
        done, total = getattr(record, "done", 0), getattr(record, "total", None)
        if total is None:
            self._show(self.format(record), total=None)
        else:  # a batch of rmtcli.computing.steps
            label = one_line(str(getattr(record, "label", "")))
            self._show(label, at=f"{done + 1} of {total}", total=total, completed=done)

    def close(self) -> None:
        """Remove the line."""
        if self.bar is not None:
            self.bar.stop()
            self.bar = None
        super().close()

    def follow(self, items: Sequence[T]) -> Iterator[T]:
        """Iterate over layers; show the current one, the speed, and the remaining time."""
        work, weights = [_work(item) for item in items], [_weights(item) for item in items]
        start, self.layers = time.monotonic(), True
        try:
            for i, item in enumerate(items):
                passed = time.monotonic() - start
                rate = f"{sum(weights[:i]) / passed / 1e6:.1f} M weights/s" if i else ""
                name = one_line(_name(item))
                count = f"{i + 1} of {len(items)}"
                self._show(name, total=sum(work) or 1, completed=sum(work[:i]), at=count, rate=rate)
                yield item
        finally:
            self.layers = False
            self.close()

    def _show(self, text: str, *, at: str = "", rate: str = "", **progress: Any) -> None:
        if self.bar is None:
            self.bar = _bar()
            self.bar.start()
        if progress.get("completed"):
            task = self.bar.task_ids[0]
            self.bar.update(task, description=text, at=at, rate=rate, **progress)
            return
        for task in self.bar.task_ids:  # the speed of an earlier loop says nothing of this one
            self.bar.remove_task(task)
        self.bar.add_task(text, at=at, rate=rate, **progress)


def _bar() -> Progress:
    """A progress line that disappears when it ends."""
    from rich.console import Console
    from rich.progress import BarColumn, Progress, SpinnerColumn, TextColumn, TimeRemainingColumn
    from rich.table import Column

    return Progress(
        SpinnerColumn(),
        TextColumn(
            "{task.description}",
            markup=False,
            table_column=Column(ratio=1, no_wrap=True, overflow="ellipsis"),
        ),
        TextColumn("{task.fields[at]}", markup=False),
        BarColumn(bar_width=20),
        TextColumn("{task.fields[rate]}", markup=False),
        TimeRemainingColumn(elapsed_when_finished=True),
        console=Console(stderr=True, highlight=False, emoji=False),
        transient=True,
        expand=True,
        speed_estimate_period=600,  # a batch may take minutes
    )


def _name(item: object) -> str:
    return str(getattr(item, "name", item))


def _weights(item: object) -> int:
    """Number of weights of a layer; 0 for an item that is not a layer."""
    shape = getattr(item, "shape", None)
    return int(shape[0] * shape[1]) if shape else 0


def _work(item: object) -> int:
    """Multiply-adds of a layer's Gram matrix, to which its time is about proportional."""
    shape = getattr(item, "shape", None)
    return _weights(item) * int(min(shape)) if shape else 0
