"""The errors a user can meet. Each message is one line: what is wrong, where, what to do."""

from __future__ import annotations


class RmtcliError(Exception):
    """Base of every error that rmtcli raises on purpose; ``exit_code`` is what a shell sees."""

    exit_code = 1

    def __str__(self) -> str:
        """One line, whatever names from a file are in it."""
        return one_line(super().__str__())


def out_of_memory(error: BaseException) -> bool:
    """Whether an error says that memory is short; not all who need memory have a type for it."""
    words = (
        "DefaultCPUAllocator",
        "CUDA out of memory",
        "failed to map segment",
        "can't start new thread",
        # What Python says where its own parser or imports got none (SystemError).
        "without exception set",
        "without setting an exception",
    )
    return isinstance(error, MemoryError) or any(word in str(error) for word in words)


def first_line(error: BaseException) -> str:
    """What a library says first, or the kind of its error where it says nothing."""
    return next((line for line in str(error).splitlines() if line), type(error).__name__)


def one_line(text: str) -> str:
    """A text with what is not printable, such as a line's end, as an escape."""
    return "".join(c if c.isprintable() else ascii(c)[1:-1] for c in text)


class UsageError(RmtcliError):
    """The request cannot be carried out as written: a wrong option, a missing or occupied path."""

    exit_code = 2


class CheckpointError(RmtcliError):
    """A checkpoint cannot be read or written."""


class LayerError(RmtcliError):
    """A layer that would have to be changed cannot be."""


class EvaluationError(RmtcliError):
    """A network cannot be built, fed or scored."""


class TrainingError(RmtcliError):
    """A network cannot be trained on: its loss or weights are not finite, or a layer is gone."""


class ClusterError(RmtcliError):
    """A cluster went away in the middle of the work."""


class ConditionError(RmtcliError):
    """A condition of ``--fail-if`` holds."""
