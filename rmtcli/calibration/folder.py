"""Arrays in files of a folder, which hold what does not fit into memory."""

from __future__ import annotations

import secrets
import tempfile
import zipfile
from collections.abc import Mapping
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from rmtcli.errors import CheckpointError


class Folder:
    """Named groups of arrays, each in a file that is there completely or not at all.

    Args:
        path: an existing folder; None for one that is deleted with the process.

    Attributes:
        lasting: whether it outlasts the process.
    """

    def __init__(self, path: Path | None = None) -> None:
        self.lasting = path is not None
        if path is None:
            self._temporary = tempfile.TemporaryDirectory(prefix="rmtcli-")
            path = Path(self._temporary.name)
        self.path = path

    def put(self, name: str, arrays: Mapping[str, NDArray[np.generic]]) -> None:
        """Write a group of arrays, in the place of an older one of its name."""
        target = self._file(name)
        temporary = target.with_name(f"{secrets.token_hex(8)}.tmp")
        try:
            with temporary.open("xb") as file:
                np.savez(file, allow_pickle=False, **arrays)
            temporary.replace(target)
        finally:
            temporary.unlink(missing_ok=True)

    def get(self, name: str, *keys: str) -> dict[str, NDArray[np.generic]] | None:
        """A group of arrays, or some of them; None if it is not there, or not completely."""
        try:
            with np.load(self._file(name), allow_pickle=False) as file:
                return {key: file[key] for key in keys or file.files}
        except (FileNotFoundError, zipfile.BadZipFile, EOFError):
            return None

    def read(self, name: str, *keys: str) -> dict[str, NDArray[np.generic]]:
        """A group of arrays, or some of them.

        Raises:
            CheckpointError: it is not there.
        """
        arrays = self.get(name, *keys)
        if arrays is None:
            raise CheckpointError(f"{self._file(name)}: was deleted or damaged while it was used")
        return arrays

    def drop(self, name: str) -> None:
        """Delete a group of arrays."""
        self._file(name).unlink(missing_ok=True)

    def _file(self, name: str) -> Path:
        return self.path / f"{name}.npz"
