"""Writing a checkpoint, which is read back and compared before it gets its name."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from functools import partial
from pathlib import Path

from rmtcli.checkpoint.base import Checkpoint
from rmtcli.checkpoint.formats import DIRECTORY, Format, find_format, format_by_ending
from rmtcli.checkpoint.readback import check_written, differs
from rmtcli.checkpoint.reader import open_written
from rmtcli.checkpoint.unpacked import as_written
from rmtcli.errors import CheckpointError, UsageError
from rmtcli.files import CONFIG
from rmtcli.files.atomic import staged_directory, staged_file

_LOGGER = logging.getLogger(__name__)


def format_of(checkpoint: Checkpoint, target: Path) -> Format:
    """The format in which a checkpoint is written to ``target``.

    A checkpoint that comes from a directory is written as one, unless the target's ending names a
    file format.

    Raises:
        UsageError: no format has the ending, or the format is only read.
    """
    if checkpoint.is_directory and find_format(target) is None:
        return DIRECTORY
    file_format = format_by_ending(target)
    if not file_format.writes:
        raise UsageError(f"{target}: this format is read only: name a .safetensors or .pt file")
    if file_format.keeps_graph and checkpoint.graph is None:
        raise UsageError(
            f"{target}: this format holds the network's graph, and {checkpoint.path} has none: "
            "name a .safetensors or .pt file"
        )
    return file_format


@contextmanager
def staged(
    checkpoint: Checkpoint,
    target: Path,
    *,
    card: str | None = None,
    also: Callable[[Path], object] | None = None,
    force: bool = True,
    verify: bool = True,
) -> Iterator[Checkpoint | None]:
    """Write a checkpoint under a temporary name, and give it ``target``'s on leaving the block.

    On entry everything is written, read back and compared with ``checkpoint``. On leaving, the
    files that the checkpoint was read from are checked for changes. After an error, in the block or
    anywhere else, ``target`` is unchanged and nothing is left beside it.

    Args:
        checkpoint: the tensors to write.
        target: the path or URL. Its ending and the source decide the format.
        card: text of a directory's model card; None keeps the source's.
        also: writes further files into a directory that is complete otherwise.
        force: whether an output that exists by then may be replaced.
        verify: whether the output is read back and compared.

    Yields:
        The output, opened under its temporary name; None where ``verify`` is False.

    Raises:
        UsageError: ``force`` is False and another run has written the output in the meantime, or
            the format cannot be written.
        CheckpointError: an input was changed in the meantime, or the output differs from
            ``checkpoint``.
    """
    file_format = format_of(checkpoint, target)
    _LOGGER.info("writing %s", target)
    fill = partial(_fill, as_written(checkpoint), card=card, also=also)
    with _temporary(as_written(checkpoint), target, file_format, fill, force) as path:
        if verify:
            _LOGGER.info("reading %s back", target)
            with _naming(target, path):
                written = open_written(checkpoint, path, file_format=file_format)
                check_written(written, checkpoint, target)
                yield written
        else:
            yield None
        checkpoint.check_unchanged()


def write_checkpoint(
    checkpoint: Checkpoint,
    target: Path,
    *,
    card: str | None = None,
    force: bool = True,
    verify: bool = True,
) -> None:
    """Write a checkpoint that appears under its name complete and verified, or not at all.

    Args:
        checkpoint: the tensors to write.
        target: the path or URL. Its ending and the source decide the format.
        card: text of a directory's model card; None keeps the source's.
        force: whether an output that exists by then may be replaced.
        verify: whether the output is read back and compared before it gets its name.

    Raises:
        UsageError: ``force`` is False and another run has written the output in the meantime, or
            the format cannot be written.
        CheckpointError: an input was changed in the meantime, or the output differs from
            ``checkpoint``.
    """
    with staged(checkpoint, target, card=card, force=force, verify=verify):
        pass


def _fill(
    checkpoint: Checkpoint,
    folder: Path,
    *,
    card: str | None,
    also: Callable[[Path], object] | None,
) -> None:
    """Write a directory, and what else belongs into it."""
    write = DIRECTORY.write
    assert write is not None
    write(checkpoint, folder, card=card)
    if also is not None:
        also(folder)


def _temporary(
    checkpoint: Checkpoint,
    target: Path,
    file_format: Format,
    fill: Callable[[Path], object],
    force: bool,
) -> AbstractContextManager[Path]:
    """The output under its temporary name.

    Args:
        checkpoint: what is written.
        target: the name on leaving the block.
        file_format: the output's format.
        fill: writes a directory.
        force: whether an output that exists by then may be replaced.
    """
    if file_format.stage is not None:
        return file_format.stage(checkpoint, target, force=force)
    write = file_format.write
    assert write is not None
    if file_format is DIRECTORY:
        return staged_directory(target, fill, last=CONFIG, force=force)
    return staged_file(target, lambda file: write(checkpoint, file), force=force)


@contextmanager
def _naming(target: Path, temporary: Path) -> Iterator[None]:
    """Let errors about the temporary file name the output instead."""
    try:
        yield
    except CheckpointError as error:
        message = str(error)
        if not message.startswith(str(temporary)):
            raise
        raise differs(
            target, f"it is damaged ({message.removeprefix(str(temporary)).lstrip('/: ')})"
        ) from None
