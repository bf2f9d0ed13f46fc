"""Paths and URLs: remote files are reached through fsspec.

URLs need the extra ``remote``. They are universal_pathlib's paths, which behave like pathlib's
without deriving from them; they are typed as ``Path``, because hardly any code has to tell them
apart.
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
from rmtcli.options import option

#: Bytes of the longest header that is read; the safetensors library has the same limit.
_LONGEST_HEADER = 100_000_000
_URL = re.compile(r"(?P<scheme>[A-Za-z][A-Za-z0-9+.-]+):(:|//)")


def as_path(path: str | Path) -> Path:
    """A path from text: a local path, or for a URL (``s3://bucket/model``) a remote one.

    Raises:
        UsageError: the URL's scheme is unknown, or the package for it is not installed.
    """
    if not isinstance(path, str):
        return path
    if not _URL.match(path):
        return Path(path)
    if find_spec("upath") is None:
        raise UsageError(f"{path}: URLs need universal_pathlib: pip install universal_pathlib")
    from upath import UPath

    try:
        url = UPath(path)
        protocol, _ = url.fs.protocol, url.path  # connects the file system
    # Each file system has its own errors where it is not installed or not configured.
    except Exception as error:
        raise UsageError(f"{path}: cannot be reached: {first_line(error)}") from None
    if "file" in ([protocol] if isinstance(protocol, str) else protocol):
        return Path(url.path)
    return cast(Path, url)


def is_path(value: object) -> bool:
    """Whether a value is a path; a URL's is no ``pathlib.Path``."""
    return hasattr(value, "is_dir")


def is_remote(path: object) -> bool:
    """Whether a path is a URL, reached through fsspec."""
    return not isinstance(path, str | Path)


def inside(path: Path, folder: Path) -> Path:
    """A path relative to a folder, as a local path that can be joined to any other folder."""
    return Path(str(path.relative_to(folder)))


@contextmanager
def reaching(path: Path) -> Iterator[None]:
    """Report an error of a remote file system as one line.

    Raises:
        CheckpointError: the file system failed.
    """
    try:
        yield
    except (CheckpointError, UsageError):
        raise
    except Exception as error:
        if not is_remote(path):
            raise
        raise CheckpointError(f"{path}: cannot be reached: {first_line(error)}") from None


def path_or_file(path: Path) -> Path | BinaryIO:
    """An argument for libraries that open files by name: the path, or a remote file opened."""
    return cast(BinaryIO, path.open("rb")) if is_remote(path) else path


def read_range(path: Path, offset: int, size: int) -> bytes:
    """Read ``size`` bytes of a remote file from ``offset`` on; no others are requested."""
    with reaching(path):
        return cast(
            bytes, file_system(path).cat_file(path_in_store(path), start=offset, end=offset + size)
        )


@contextmanager
def stand_in(path: Path, length: Callable[[bytes], int]) -> Iterator[Path]:
    """A local file in which a header can be checked.

    For a remote file it is a temporary file of equal size that holds the header alone.

    Args:
        path: the file.
        length: the length of the header in bytes, from the file's first eight bytes.

    Yields:
        The path of the local file.
    """
    if not is_remote(path):
        yield path
        return
    with tempfile.NamedTemporaryFile() as file:
        with reaching(path):
            size = path.stat().st_size
        start = read_range(path, 0, min(8, size))
        file.write(start + read_range(path, 8, min(length(start), _LONGEST_HEADER, size)))
        file.truncate(size)  # a sparse file: the rest takes no room
        file.flush()
        yield Path(file.name)


def already_written(target: Path) -> UsageError:
    """The error where an output was absent when the work began and exists at its end."""
    return UsageError(
        f"{target}: another run has written it in the meantime, and it was left as it is: "
        f"give {option('force')} to replace it"
    )


def file_system(path: Path) -> Any:
    """The fsspec file system of a URL."""
    return cast(Any, path).fs


def path_in_store(path: Path) -> str:
    """The path of a URL as its own file system spells it."""
    return str(cast(Any, path).path)
