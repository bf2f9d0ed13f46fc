"""Checks of an output path, made before any work is done."""

from __future__ import annotations

import os
from pathlib import Path

from rmtcli.errors import UsageError
from rmtcli.files.path import is_remote, reaching
from rmtcli.options import option

#: The file by which a directory is known as a model's, and may be replaced by another model.
CONFIG = "config.json"


def check_target(
    target: Path,
    *,
    inputs: list[Path],
    force: bool,
    directory: bool = False,
    mark: str = CONFIG,
) -> None:
    """Refuse an output that cannot be written, before any work is done.

    Args:
        target: path or URL of the output.
        inputs: files and directories that are read.
        force: whether an existing output may be replaced.
        directory: whether the output is a directory.
        mark: the file by which a directory is known as an earlier output, and may be replaced.

    Raises:
        UsageError: the output is an input, lies in one or holds one, even with ``force``; it exists
            already; or its folder is not writable, or cannot be made.
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
                raise UsageError(f"{target}: is inside an input, and inputs are never changed")
            if directory and _within(path, target):
                raise UsageError(f"{target}: holds an input, and inputs are never overwritten")
        if target.exists() and not force:
            raise UsageError(f"{target}: exists already: give {option('force')} to replace it")
        if target.exists() and directory and not (target / mark).is_file():
            raise UsageError(f"{target}: holds no model that could be replaced: name another one")


def _check_folder(target: Path, inputs: list[Path]) -> None:
    """Refuse a local output without a writable folder, or one that is named for two files.

    Folders that do not exist are made when the output is written.
    """
    folder = next(folder for folder in target.absolute().parents if folder.exists())
    if not folder.is_dir():
        raise UsageError(f"{target}: {folder} is a file: name a folder")
    if not os.access(folder, os.W_OK):
        raise UsageError(f"{target}: its folder may not be written to")
    inputs_here = {path.resolve() for path in inputs if not is_remote(path)}
    if not target.exists() and target.resolve() in inputs_here:
        raise UsageError(f"{target}: is given for two outputs: give each a file of its own")


def _same(target: Path, path: Path) -> bool:
    """Whether two paths, both local or both URLs, are one file or directory."""
    if is_remote(target):
        return str(target) == str(path)
    return target.exists() and path.exists() and target.samefile(path)


def _within(path: Path, folder: Path) -> bool:
    """Whether a path is in a folder, both local or both URLs."""
    if is_remote(path):
        return f"{path}/".startswith(f"{folder}/")
    return path.resolve().is_relative_to(folder.resolve())
