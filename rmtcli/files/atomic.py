"""Atomic writes: an output appears complete or not at all."""

from __future__ import annotations

import errno
import os
import secrets
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import BinaryIO

from rmtcli.files.path import already_written, is_remote
from rmtcli.files.upload import directory_upload, file_upload


def write_file(target: Path, write: Callable[[BinaryIO], object], *, force: bool = True) -> None:
    """Write a file that appears under its name complete or not at all.

    Args:
        target: the path or URL.
        write: fills a file that is opened for it.
        force: whether a file that exists by then may be replaced.

    Raises:
        UsageError: ``force`` is False and another run has written the file in the meantime.
    """
    with staged_file(target, write, force=force):
        pass


def write_text(target: Path, text: str) -> None:
    """Write a text file as :func:`write_file` does; what UTF-8 cannot encode becomes an escape."""
    write_file(target, lambda file: file.write(text.encode(errors="backslashreplace")))


@contextmanager
def staged_file(
    target: Path, write: Callable[[BinaryIO], object], *, force: bool = True
) -> Iterator[Path]:
    """Write a file under a temporary name beside ``target``, and rename it on leaving the block.

    Whatever fails, in ``write`` or in the block, ``target`` is unchanged and nothing is left
    beside it.

    Args:
        target: the path or URL. For a URL the temporary file is on this machine.
        write: fills a file that is opened for it.
        force: whether a file that exists by then may be replaced.

    Yields:
        The path of the temporary file: complete, closed and flushed to the disk.

    Raises:
        UsageError: ``force`` is False and another run has written the file in the meantime.
    """
    if is_remote(target):
        with file_upload(target, write, force=force) as uploaded:
            yield uploaded
        return
    temporary = target.with_name(f".rmtcli-{secrets.token_hex(8)}.tmp")
    made = _make_folder(target.parent)
    try:
        with temporary.open("xb") as file:
            write(file)
            file.flush()
            flush_to_disk(file.fileno())
        yield temporary
        if force:
            temporary.replace(target)
        else:
            _rename_without_replacing(temporary, target)
    except BaseException as error:
        temporary.unlink(missing_ok=True)
        _remove(made)
        raise with_path(error, target) from None


@contextmanager
def staged_directory(
    target: Path, fill: Callable[[Path], object], *, last: str, force: bool = True
) -> Iterator[Path]:
    """Fill a directory with a temporary name beside ``target``, and rename it on leaving the block.

    A directory that exists already stays until the new one is complete, and comes back if the
    renaming fails. Whatever fails, in ``fill`` or in the block, nothing is left beside ``target``.

    Args:
        target: the path or URL. For a URL the temporary directory is on this machine.
        fill: fills an empty directory.
        last: name of the file without which the directory is not read; at a URL, where no
            directory can be renamed, it is removed first and sent last.
        force: whether a directory that exists by then may be replaced.

    Yields:
        The path of the temporary directory: complete, and flushed to the disk.

    Raises:
        UsageError: ``force`` is False and another run has written the directory in the meantime.
    """

    def fill_and_flush(folder: Path) -> None:
        fill(folder)
        for path in [*folder.rglob("*"), folder]:
            _flush_path(path)

    if is_remote(target):
        with directory_upload(target, fill_and_flush, last=last, force=force) as uploaded:
            yield uploaded
        return
    mark = secrets.token_hex(8)
    temporary, old = (target.with_name(f".rmtcli-{mark}.{end}") for end in ("tmp", "old"))
    made = _make_folder(target.parent)
    try:
        temporary.mkdir()
        fill_and_flush(temporary)
        yield temporary
        if target.exists() and not force:
            raise already_written(target)
        _exchange(temporary, target, old)
    except BaseException as error:
        shutil.rmtree(temporary, ignore_errors=True)
        _remove(made)
        raise with_path(error, target) from None
    if old.is_symlink():
        old.unlink()
    shutil.rmtree(old, ignore_errors=True)


def _make_folder(folder: Path) -> list[Path]:
    """Make a folder and those around it, where they do not exist; returns these, inner first."""
    missing = [path for path in (folder, *folder.parents) if not path.exists()]
    folder.mkdir(parents=True, exist_ok=True)
    return missing


def _remove(folders: list[Path]) -> None:
    """Remove folders that were made for an output, unless they hold something by now."""
    with suppress(OSError):
        for folder in folders:
            folder.rmdir()


def flush_to_disk(handle: int) -> None:
    """Flush an open file to the disk and drop it from the page cache.

    Whoever reads the file back then reads what the disk holds.
    """
    os.fsync(handle)
    if hasattr(os, "posix_fadvise"):
        os.posix_fadvise(handle, 0, 0, os.POSIX_FADV_DONTNEED)


def with_path(error: BaseException, path: Path) -> BaseException:
    """An error of the system that names the output.

    The error of a full disk names no file, or the file that was being copied; any other error is
    returned as it is.
    """
    if not isinstance(error, OSError) or error.errno is None:
        return error
    if error.filename is None or error.errno in (errno.ENOSPC, errno.EDQUOT):
        return OSError(error.errno, error.strerror, str(path))
    return error


def _rename_without_replacing(temporary: Path, target: Path) -> None:
    """Rename a file unless the name is taken; unlike a rename, a hard link replaces nothing."""
    try:
        os.link(temporary, target)
    except FileExistsError:
        raise already_written(target) from None
    except OSError:  # a file system without hard links
        if target.exists():
            raise already_written(target) from None
        temporary.replace(target)
    else:
        temporary.unlink()


def _exchange(temporary: Path, target: Path, old: Path) -> None:
    """Rename the new directory to ``target``, after moving the existing one out of the way."""
    with suppress(FileNotFoundError):
        target.rename(old)
    try:
        temporary.rename(target)
    except BaseException as error:
        if not target.exists() and (old.exists() or old.is_symlink()):
            old.rename(target)
        if isinstance(error, OSError) and error.errno in (errno.EEXIST, errno.ENOTEMPTY):
            raise already_written(target) from None
        raise


def _flush_path(path: Path) -> None:
    """Flush a file or a folder to the disk."""
    handle = os.open(path, os.O_RDONLY)
    try:
        flush_to_disk(handle)
    finally:
        os.close(handle)
