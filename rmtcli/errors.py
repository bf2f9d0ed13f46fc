"""The errors that a user can meet. Each message is one line: what is wrong, where, what to do."""

from __future__ import annotations


class RmtcliError(Exception):
    """Base of all errors that rmtcli raises on purpose; ``exit_code`` is that of the program."""

    exit_code = 1

    def __str__(self) -> str:
        """The message on one line, whatever characters the names in it contain."""
        return one_line(super().__str__())


def out_of_memory(error: BaseException) -> bool:
    """Whether an error means that memory ran out; not every library raises ``MemoryError``."""
    words = (
        "DefaultCPUAllocator",
        "CUDA out of memory",
        "failed to map segment",
        "can't start new thread",
        # SystemErrors of Python, when its parser or an import gets no memory.
        "without exception set",
        "without setting an exception",
    )
    return isinstance(error, MemoryError) or any(word in str(error) for word in words)


def first_line(error: BaseException) -> str:
    """The first line of an error's message that is not empty, or the name of the error's type."""
    return next((line for line in str(error).splitlines() if line), type(error).__name__)


def one_line(text: str) -> str:
    """Escape characters that cannot be printed, such as line breaks."""
    return "".join(c if c.isprintable() else ascii(c)[1:-1] for c in text)


class UsageError(RmtcliError, ValueError):
    """The request cannot be carried out as written: an invalid option or path."""

    exit_code = 2


class MissingFileError(UsageError, FileNotFoundError):
    """There is no such file or directory."""


class CheckpointError(RmtcliError):
    """A checkpoint cannot be read or written."""


class LayerError(RmtcliError):
    """A layer that has to be changed cannot be changed."""


class EvaluationError(RmtcliError):
    """A network cannot be built, fed or scored."""


class NotInPartsError(EvaluationError):
    """A network cannot be run block by block; the message is the reason."""


class TrainingError(RmtcliError):
    """Training cannot continue: the loss or weights are not finite, or a layer is missing."""


class ClusterError(RmtcliError):
    """The connection to a cluster was lost during the work."""


class ConditionError(RmtcliError):
    """A condition of ``--fail-if`` holds."""
