"""Arrays in files of a folder, which hold what does not fit into memory."""

from __future__ import annotations

import errno
import secrets
import shutil
import tempfile
import weakref
import zipfile
from collections.abc import Mapping
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from rmtcli.errors import CheckpointError, UsageError
from rmtcli.files import ONE_READER, write_text
from rmtcli.options import option

#: The file that says which run a folder belongs to, and the endings of all others.
_RUN, _ENDING, _UNFINISHED = "rmtcli.json", ".rmtcli.npz", ".rmtcli.tmp"


class Folder:
    """Named groups of arrays, each in a file that is there completely or not at all.

    Attributes:
        path: the folder.
        lasting: whether it outlasts the process, so that another run can go on from it.
    """

    def __init__(self) -> None:
        """Make a folder that is deleted with this object, or with the process."""
        self.path, self.lasting = Path(tempfile.mkdtemp(prefix="rmtcli-")), False
        weakref.finalize(self, shutil.rmtree, self.path, ignore_errors=True)

    @staticmethod
    def at(path: Path, run: str) -> Folder:
        """The folder of a run that may have been interrupted.

        Args:
            path: the folder, which is made if it does not exist.
            run: a description of the run as JSON.

        Raises:
            UsageError: the folder holds anything else.
        """
        folder = Folder.__new__(Folder)
        folder.path, folder.lasting = path, True
        try:
            path.mkdir(parents=True, exist_ok=True)
            known = {file.name for file in path.iterdir()}
        except FileExistsError:
            raise UsageError(f"{path}: is a file: name a folder") from None
        if _RUN not in known:
            if known:
                raise UsageError(f"{path}: is not empty: name a folder that is, or a new one")
            write_text(path / _RUN, run)
        elif (path / _RUN).read_text() != run:
            raise UsageError(
                f"{path}: holds what another run has kept there: delete the folder to give that "
                "run up, or name another folder"
            )
        return folder

    @staticmethod
    def clear(path: str | Path | None) -> None:
        """Delete what runs have kept in a folder, if one is named."""
        for file in Path(path).iterdir() if path is not None else ():
            if file.name == _RUN or file.name.endswith((_ENDING, _UNFINISHED)):
                file.unlink(missing_ok=True)

    def check(self) -> None:
        """Make sure that the folder is reached from here, where a run has made it elsewhere.

        Raises:
            UsageError: it is not.
        """
        if not (self.path / _RUN).exists():
            raise UsageError(
                f"{self.path}: a worker does not find this folder of {option('spill')}: name one "
                "that all workers reach under the same path"
            )

    def reserve(self, size: int) -> None:
        """Make sure that there is room for so many bytes, those included that are kept already.

        Raises:
            UsageError: there is not.
        """
        used = sum(file.stat().st_size for file in self.path.iterdir())
        free = shutil.disk_usage(self.path).free
        if used + free < size:
            raise UsageError(
                f"{self.path}: {free / 1e6:,.0f} MB are free, and the states and moments of this "
                f"network take about {(size - used) / 1e6:,.0f} MB: make room, or name another "
                f"folder with {option('spill')}"
            )

    def put(self, name: str, arrays: Mapping[str, NDArray[np.generic]]) -> None:
        """Write a group of arrays, in the place of an older one of its name.

        Raises:
            CheckpointError: the disk is full.
        """
        temporary = self.path / f"{secrets.token_hex(8)}{_UNFINISHED}"
        try:
            with temporary.open("xb") as file:
                np.savez(file, allow_pickle=False, **arrays)
            temporary.replace(self._file(name))
        except OSError as error:
            if error.errno != errno.ENOSPC:
                raise
            again = ", and run the command again, which goes on from here" if self.lasting else ""
            raise CheckpointError(f"{self.path}: the disk is full: make room{again}") from None
        finally:
            temporary.unlink(missing_ok=True)

    def get(self, name: str, *keys: str) -> dict[str, NDArray[np.generic]] | None:
        """A group of arrays, or some of them; None if it is not there, or not completely."""
        try:
            with ONE_READER, np.load(self._file(name), allow_pickle=False) as file:
                return {key: file[key] for key in keys or file.files}
        except (FileNotFoundError, zipfile.BadZipFile, EOFError):
            return None

    def holds(self, name: str) -> bool:
        """Whether a group of arrays is there, of which none is read."""
        try:
            np.load(self._file(name), allow_pickle=False).close()
        except (FileNotFoundError, zipfile.BadZipFile, EOFError):
            return False
        return True

    def read(self, name: str, *keys: str) -> dict[str, NDArray[np.generic]]:
        """A group of arrays, or some of them.

        Raises:
            CheckpointError: it is not there.
        """
        arrays = self.get(name, *keys)
        if arrays is None:
            raise CheckpointError(f"{self._file(name)}: was deleted or damaged while it was used")
        return arrays

    def drop_under(self, start: str) -> None:
        """Delete all groups whose names begin so."""
        for file in self.path.glob(f"{start}*{_ENDING}"):
            file.unlink(missing_ok=True)

    def _file(self, name: str) -> Path:
        return self.path / f"{name}{_ENDING}"
