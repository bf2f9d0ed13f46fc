"""Uploads to URLs: a file or a directory appears complete or not at all."""

from __future__ import annotations

import secrets
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO, cast

from rmtcli.errors import CheckpointError
from rmtcli.files.path import already_written, file_system, path_in_store, reaching


@contextmanager
def file_upload(
    target: Path, write: Callable[[BinaryIO], object], *, force: bool = True
) -> Iterator[Path]:
    """Write a local file; on leaving the block, upload it beside ``target`` and rename it there.

    Whatever fails, ``target`` is unchanged and nothing is left beside it.

    Args:
        target: the URL.
        write: fills a file that is opened for it.
        force: whether a file that exists by then may be replaced. Stores have no locks: another
            program may still write between the last look and the renaming.

    Yields:
        The path of the local file.

    Raises:
        UsageError: ``force`` is False and another run has written the file in the meantime.
        CheckpointError: the store cannot be reached, or did not receive the whole file.
    """
    store, beside = file_system(target), target.with_name(f".rmtcli-{secrets.token_hex(8)}.tmp")
    with tempfile.NamedTemporaryFile() as file:
        write(cast(BinaryIO, file))
        file.flush()
        yield Path(file.name)
        with reaching(target):
            try:
                _send(Path(file.name), store, path_in_store(beside), target)
                if not force and target.exists():
                    raise already_written(target)
                store.mv(path_in_store(beside), path_in_store(target))
            except BaseException:
                if store.exists(path_in_store(beside)):
                    store.rm_file(path_in_store(beside))
                raise


@contextmanager
def directory_upload(
    target: Path, fill: Callable[[Path], object], *, last: str, force: bool = True
) -> Iterator[Path]:
    """Fill a local directory; on leaving the block, upload it, one file after the other.

    Object stores cannot rename a directory. Without the file ``last`` it is not read as a model, so
    that file is uploaded last, and deleted first where a directory is replaced.

    Args:
        target: the URL.
        fill: fills an empty directory.
        last: name of the file that makes the directory a model.
        force: whether a directory that exists by then may be replaced.

    Yields:
        The path of the local directory.

    Raises:
        UsageError: ``force`` is False and another run has written the directory in the meantime.
        CheckpointError: the store cannot be reached, or did not receive all files whole.
    """
    store, root = file_system(target), path_in_store(target)
    with tempfile.TemporaryDirectory(prefix="rmtcli-") as name:
        folder = Path(name)
        fill(folder)
        yield folder
        with reaching(target):
            if not force and target.exists():
                raise already_written(target)
            if store.exists(f"{root}/{last}"):
                store.rm_file(f"{root}/{last}")
            if store.exists(root):
                store.rm(root, recursive=True)
            files = sorted(file for file in folder.rglob("*") if file.is_file())
            for file in sorted(files, key=lambda file: file == folder / last):
                destination = f"{root}/{file.relative_to(folder).as_posix()}"
                store.makedirs(destination.rpartition("/")[0], exist_ok=True)
                _send(file, store, destination, target)


def _send(file: Path, store: Any, destination: str, target: Path) -> None:
    """Upload a local file and compare its size in the store."""
    store.put_file(str(file), destination)
    size = file.stat().st_size
    if store.size(destination) != size:
        raise CheckpointError(f"{target}: the store holds another number of bytes than was sent")
