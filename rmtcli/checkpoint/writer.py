"""Writing a checkpoint: in the format of its name, read back before it gets it."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path

from rmtcli.checkpoint.base import Checkpoint
from rmtcli.checkpoint.formats import CONTAINERS, container_of
from rmtcli.checkpoint.readback import check_written, differs
from rmtcli.checkpoint.reader import open_checkpoint
from rmtcli.errors import CheckpointError, UsageError
from rmtcli.files.atomic import staged_directory, staged_file

_LOGGER = logging.getLogger(__name__)


def format_of(checkpoint: Checkpoint, target: Path) -> str:
    """``directory``, ``safetensors`` or ``torch``: what a checkpoint is written as at some place.

    What comes from a directory becomes one, unless the name is that of a file.

    Raises:
        UsageError: a name that no format has, or one that is only read.
    """
    if checkpoint.path.is_dir() and target.suffix.lower() not in CONTAINERS:
        return "directory"
    container = container_of(target)
    if container not in ("safetensors", "torch"):
        raise UsageError(f"{target}: this format is read only: name a .safetensors or .pt file")
    return container


@contextmanager
def staged(
    checkpoint: Checkpoint,
    target: Path,
    *,
    card: str | None = None,
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
    container = format_of(checkpoint, target)
    _LOGGER.info("writing %s", target)
    with _temporary(checkpoint, target, container, card, force) as path:
        if verify:
            _LOGGER.info("reading %s back", target)
            with _naming(target, path):
                written = open_checkpoint(path, container=container)
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


def _temporary(
    checkpoint: Checkpoint, target: Path, container: str, card: str | None, force: bool
) -> AbstractContextManager[Path]:
    """The output under its temporary name."""
    if container == "directory":
        from rmtcli.checkpoint.huggingface.read import CONFIG
        from rmtcli.checkpoint.huggingface.write import write_directory

        return staged_directory(
            target,
            lambda folder: write_directory(checkpoint, folder, card=card),
            last=CONFIG,
            force=force,
        )
    if container == "safetensors":
        from rmtcli.checkpoint.safetensors import write_safetensors as write
    else:
        from rmtcli.checkpoint.torch.file import write_torch as write

    return staged_file(target, lambda file: write(checkpoint, file), force=force)


@contextmanager
def _naming(target: Path, temporary: Path) -> Iterator[None]:
    """Let errors about the temporary file name the output instead."""
    try:
        yield
    except CheckpointError as error:
        what = str(error)
        if not what.startswith(str(temporary)):
            raise
        raise differs(
            target, f"it is damaged ({what.removeprefix(str(temporary)).lstrip('/: ')})"
        ) from None
