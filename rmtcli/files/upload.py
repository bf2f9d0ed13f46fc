"""Uploads to URLs: a file or a directory appears complete or not at all."""

from __future__ import annotations

import secrets
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any, BinaryIO, cast

from rmtcli.errors import CheckpointError
from rmtcli.files.path import _fs, _inner, reaching, taken


def upload_file(
    target: Path,
    write: Callable[[BinaryIO], object],
    *,
    force: bool = True,
    check: Callable[[Path], None] = lambda place: None,
) -> None:
    """Let ``write`` fill a local file, send it beside the target, and rename it there.

    Whatever goes wrong, ``target`` is what it was.

    Args:
        target: the URL.
        write: is given a local file to fill.
        force: whether something that is there by then may be replaced; stores have no lock, so that
            between this look and the renaming another program may still be faster.
        check: is given the local file's place, and may refuse it.

    Raises:
        UsageError: it must not be, and there is something.
        CheckpointError: the store cannot be reached, or did not take all of it.
    """
    fs, beside = _fs(target), target.with_name(f".rmtcli-{secrets.token_hex(8)}.tmp")
    with tempfile.NamedTemporaryFile() as file:
        write(cast(BinaryIO, file))
        file.flush()
        check(Path(file.name))
        with reaching(target):
            try:
                _send(Path(file.name), fs, _inner(beside), target)
                if not force and target.exists():
                    raise taken(target)
                fs.mv(_inner(beside), _inner(target))
            except BaseException:
                if fs.exists(_inner(beside)):
                    fs.rm_file(_inner(beside))
                raise


def upload_directory(
    target: Path,
    fill: Callable[[Path], object],
    *,
    last: str,
    force: bool = True,
    check: Callable[[Path], None] = lambda place: None,
) -> None:
    """Let ``fill`` make a local directory, and send it, one file after the other.

    Stores of objects cannot rename a directory. Without the file ``last`` it is no model, so that
    one is sent last, and where something is replaced, removed first.

    Args:
        target: the URL.
        fill: is given a local folder to fill.
        last: the file that makes it a model.
        force: whether something that is there by then may be replaced.
        check: is given the local folder, and may refuse it.

    Raises:
        UsageError: it must not be, and there is something.
        CheckpointError: the store cannot be reached, or did not take all of it.
    """
    fs, inner = _fs(target), _inner(target)
    with tempfile.TemporaryDirectory(prefix="rmtcli-") as name:
        folder = Path(name)
        fill(folder)
        check(folder)
        with reaching(target):
            if not force and target.exists():
                raise taken(target)
            if fs.exists(f"{inner}/{last}"):
                fs.rm_file(f"{inner}/{last}")
            if fs.exists(inner):
                fs.rm(inner, recursive=True)
            files = sorted(file for file in folder.rglob("*") if file.is_file())
            for file in sorted(files, key=lambda file: file == folder / last):
                there = f"{inner}/{file.relative_to(folder).as_posix()}"
                fs.makedirs(there.rpartition("/")[0], exist_ok=True)
                _send(file, fs, there, target)


def _send(file: Path, fs: Any, there: str, target: Path) -> None:
    """Put a local file in a store, and make sure that it arrived whole."""
    fs.put_file(str(file), there)
    size = file.stat().st_size
    if fs.size(there) != size:
        raise CheckpointError(f"{target}: the store holds another number of bytes than was sent")
