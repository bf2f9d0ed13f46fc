"""Atomic writes: an output appears complete or not at all."""

from __future__ import annotations

import errno
import os
import secrets
from collections.abc import Callable
from pathlib import Path
from typing import BinaryIO

from rmtcli.files.path import is_remote, taken
from rmtcli.files.upload import upload_file


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
