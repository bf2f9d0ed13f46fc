"""Putting files down: whole or not at all, and never over something that matters."""

from __future__ import annotations

import errno
import logging
import os
import secrets
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

from rmtcli.checkpoint.base import Checkpoint
from rmtcli.checkpoint.readback import check_written, differs
from rmtcli.checkpoint.reader import CONTAINERS, container_of, open_checkpoint
from rmtcli.checkpoint.remote import is_remote, reaching, taken, upload_file
from rmtcli.errors import CheckpointError, UsageError

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


def check_target(target: Path, *, inputs: list[Path], force: bool, directory: bool = False) -> None:
    """Refuse a place that cannot be written, before any work is done.

    Args:
        target: the place.
        inputs: files and directories that are read.
        force: whether something that is there may be replaced.
        directory: whether a directory is to be written.

    Raises:
        UsageError: it is an input or in one (whatever ``force`` says), exists already, or has no
            folder.
    """
    with reaching(target):
        if target.is_dir() and not directory:
            raise UsageError(f"{target}: is a directory: name a file")
        if not is_remote(target):
            _check_folder(target, inputs)
        for path in (path for path in inputs if is_remote(path) == is_remote(target)):
            if _same(target, path):
                raise UsageError(f"{target}: is an input, and inputs are never overwritten")
            if _within(target, path):
                raise UsageError(f"{target}: lies in an input, and inputs are never changed")
            if directory and _within(path, target):
                raise UsageError(f"{target}: holds an input, and inputs are never overwritten")
        if target.exists() and not force:
            raise UsageError(f"{target}: exists already: give --force to replace it")
        if target.exists() and directory and not (target / "config.json").is_file():
            raise UsageError(f"{target}: holds no model that could be replaced: name another place")


def _check_folder(target: Path, inputs: list[Path]) -> None:
    """Refuse a place in no folder, or one that two files would have; a store has no folders."""
    if not target.parent.is_dir():
        raise UsageError(f"{target}: its folder does not exist: create it first")
    if not os.access(target.parent, os.W_OK):
        raise UsageError(f"{target}: its folder may not be written to")
    here = {path.resolve() for path in inputs if not is_remote(path)}
    if not target.exists() and target.resolve() in here:
        raise UsageError(f"{target}: is named for two things: give each a file of its own")


def _same(target: Path, path: Path) -> bool:
    """Whether two paths, both local or both URLs, lead to one thing."""
    if is_remote(target):
        return str(target) == str(path)
    return target.exists() and path.exists() and target.samefile(path)


def _within(path: Path, folder: Path) -> bool:
    if is_remote(path):
        return f"{path}/".startswith(f"{folder}/")
    return path.resolve().is_relative_to(folder.resolve())


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
        from rmtcli.checkpoint.directory import write_directory

        write_directory(checkpoint, target, card=card, force=force, check=checked)
        return
    if container == "safetensors":
        from rmtcli.checkpoint.safetensors import write_safetensors as write
    else:
        from rmtcli.checkpoint.torch_file import write_torch as write

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


def write_file(
    target: Path,
    write: Callable[[BinaryIO], object],
    *,
    force: bool = True,
    check: Callable[[Path], None] = lambda place: None,
) -> None:
    """Let ``write`` fill a temporary sibling, bring it to the disk, then rename it to ``target``.

    Whatever goes wrong, ``target`` is what it was and nothing is left beside it.

    Args:
        target: the file.
        write: is given a file to fill.
        force: whether a file that is there by then may be replaced.
        check: is given the filled file's place, and may refuse it before it gets its name.

    Raises:
        UsageError: it must not be, and there is one: another run was faster.
    """
    if is_remote(target):
        upload_file(target, write, force=force, check=check)
        return
    temporary = target.with_name(f".rmtcli-{secrets.token_hex(8)}.tmp")
    try:
        with temporary.open("xb") as file:
            write(file)
            file.flush()
            to_disk(file.fileno())
        check(temporary)
        if force:
            temporary.replace(target)
        else:
            _place(temporary, target)
    except BaseException as error:
        temporary.unlink(missing_ok=True)
        raise named(error, target) from None


def to_disk(handle: int) -> None:
    """Bring an open file to the disk, and out of memory: what is read back comes from there."""
    os.fsync(handle)
    if hasattr(os, "posix_fadvise"):
        os.posix_fadvise(handle, 0, 0, os.POSIX_FADV_DONTNEED)


def named(error: BaseException, path: Path) -> BaseException:
    """An error with the output's name: a full disk gives none, or that of what is copied to it."""
    if not isinstance(error, OSError) or error.errno is None:
        return error
    if error.filename is None or error.errno in (errno.ENOSPC, errno.EDQUOT):
        return OSError(error.errno, error.strerror, str(path))
    return error


def _place(temporary: Path, target: Path) -> None:
    """Give a file its name, unless another has it; unlike a rename, a link replaces nothing."""
    try:
        os.link(temporary, target)
    except FileExistsError:
        raise taken(target) from None
    except OSError:  # a file system without second names
        if target.exists():
            raise taken(target) from None
        temporary.replace(target)
    else:
        temporary.unlink()
