"""Putting files down: whole or not at all, and never over something that matters."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from rmtcli.checkpoint.base import Checkpoint
from rmtcli.checkpoint.formats import CONTAINERS, container_of
from rmtcli.checkpoint.readback import check_written, differs
from rmtcli.checkpoint.reader import open_checkpoint
from rmtcli.errors import CheckpointError, UsageError
from rmtcli.files import write_file

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


def write_checkpoint(
    checkpoint: Checkpoint,
    target: Path,
    *,
    card: str | None = None,
    force: bool = True,
    verify: bool = True,
    check: Callable[[Checkpoint], None] = lambda written: None,
) -> None:
    """Write ``checkpoint`` in the format that the target's name and the source call for.

    It gets its name when it is complete, read back and found to be what was meant.

    Args:
        checkpoint: what to write.
        target: where to.
        card: text of a directory's model card; None for the old one.
        force: whether something that is there may be replaced.
        verify: whether all of it is read back and compared.
        check: looks at what was written, opened anew, and may refuse it; with ``verify`` only.

    Raises:
        UsageError: something has come to be there, and must not be replaced.
        CheckpointError: what it is made of was changed in the meantime, or what was written is not
            what was meant.
    """
    container = format_of(checkpoint, target)
    _LOGGER.info("writing %s", target)

    def checked(place: Path) -> None:
        if verify:
            _LOGGER.info("reading %s back", target)
            with _named(place, target):
                written = open_checkpoint(place, container=container)
                check_written(written, checkpoint, target)
                check(written)
        checkpoint.check_unchanged()

    if container == "directory":
        from rmtcli.checkpoint.huggingface.write import write_directory

        write_directory(checkpoint, target, card=card, force=force, check=checked)
        return
    if container == "safetensors":
        from rmtcli.checkpoint.safetensors import write_safetensors as write
    else:
        from rmtcli.checkpoint.torch.file import write_torch as write

    write_file(target, lambda file: write(checkpoint, file), force=force, check=checked)


@contextmanager
def _named(place: Path, target: Path) -> Iterator[None]:
    """Let errors about a temporary file speak of the output."""
    try:
        yield
    except CheckpointError as error:
        what = str(error)
        if not what.startswith(str(place)):
            raise
        raise differs(
            target, f"it is damaged ({what.removeprefix(str(place)).lstrip('/: ')})"
        ) from None
