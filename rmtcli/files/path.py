"""Checkpoints in other places than this machine's file systems, through fsspec.

The extra ``remote``. Paths are those of universal_pathlib, which behave like pathlib's but are
none; they are typed as such, because hardly any code has to tell them apart.
"""

from __future__ import annotations

import re
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
from typing import Any, BinaryIO, cast

from rmtcli.errors import CheckpointError, UsageError, first_line

#: The longest header that is read, as the safetensors library has it.
_LONGEST = 100_000_000
_URL = re.compile(r"(?P<scheme>[A-Za-z][A-Za-z0-9+.-]+):(:|//)")


def as_path(path: str | Path) -> Path:
    """A path of this machine, or where the text is a URL (``s3://bucket/model``), one of fsspec's.

    Raises:
        UsageError: no such scheme, or what serves it is not installed.
    """
    if not isinstance(path, str):
        return path
    if not _URL.match(path):
        return Path(path)
    if find_spec("upath") is None:
        raise UsageError(f"{path}: URLs need universal_pathlib: pip install 'rmtcli[remote]'")
    from upath import UPath

    try:
        found = UPath(path)
        protocol, _ = found.fs.protocol, found.path  # the file system itself is made here
    # Each file system fails in ways of its own where it is not installed, or not set up.
    except Exception as error:
        raise UsageError(f"{path}: cannot be reached: {first_line(error)}") from None
    if "file" in ([protocol] if isinstance(protocol, str) else protocol):
        return Path(found.path)
    return cast(Path, found)


def is_remote(path: object) -> bool:
    """Whether a path is one of fsspec's."""
    return not isinstance(path, str | Path)


def inside(path: Path, folder: Path) -> Path:
    """Where a path is in a folder, as a path that fits any other folder."""
    return Path(str(path.relative_to(folder)))


@contextmanager
def reaching(path: Path) -> Iterator[None]:
    """Turn what a file system raises of its own into one line.

    Raises:
        CheckpointError: it failed.
    """
    try:
        yield
    except (CheckpointError, UsageError):
        raise
    except Exception as error:
        if not is_remote(path):
            raise
        raise CheckpointError(f"{path}: cannot be reached: {first_line(error)}") from None


def source(path: Path) -> Path | BinaryIO:
    """What libraries that read files by name are given: a file that is open already, from afar."""
    return cast(BinaryIO, path.open("rb")) if is_remote(path) else path


def read_range(path: Path, offset: int, size: int) -> bytes:
    """Some bytes of a file from afar; no others are asked for."""
    with reaching(path):
        return cast(
            bytes, file_system(path).cat_file(path_in_store(path), start=offset, end=offset + size)
        )


@contextmanager
def stand_in(path: Path, length: Callable[[bytes], int]) -> Iterator[Path]:
    """A file to check a header in: the file itself, or one of its size with the header alone.

    Args:
        path: the file.
        length: from its first eight bytes, how long its header is.
    """
    if not is_remote(path):
        yield path
        return
    with tempfile.NamedTemporaryFile() as file:
        with reaching(path):
            size = path.stat().st_size
        start = read_range(path, 0, min(8, size))
        file.write(start + read_range(path, 8, min(length(start), _LONGEST, size)))
        file.truncate(size)  # takes no room: nothing is written there
        file.flush()
        yield Path(file.name)


def already_written(target: Path) -> UsageError:
    """The error where an output was absent when the work began and exists at its end."""
    return UsageError(
        f"{target}: another run has written it in the meantime, and it was left as it is: "
        "give --force to replace it"
    )


def file_system(path: Path) -> Any:
    """The fsspec file system of a URL."""
    return cast(Any, path).fs


def path_in_store(path: Path) -> str:
    """The path of a URL as its own file system spells it."""
    return str(cast(Any, path).path)
