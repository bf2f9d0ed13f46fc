"""Tensors in torch's zip archives, read from their storages; no code in an archive is run."""

from __future__ import annotations

import errno
import math
import struct
import zipfile
import zlib
from abc import abstractmethod
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from rmtcli.checkpoint.base import FileCheckpoint, TensorInfo
from rmtcli.checkpoint.dtypes import TYPES, RawTensor
from rmtcli.checkpoint.ties import equal_keys
from rmtcli.errors import CheckpointError
from rmtcli.files.path import path_or_file

#: A view may be larger than its storage, as ``expand`` makes them; up to so many bytes it is read.
#: Beyond them, a few stored bytes could fill the memory.
EXPANDED = 16 * 2**20


#: Errors of zipfile and numpy on damaged bytes. Encryption is a RuntimeError, an unknown method a
#: NotImplementedError, and a name that is not text a ValueError.
_DAMAGED = (
    *(EOFError, KeyError, OverflowError, RuntimeError, ValueError),
    *(struct.error, zlib.error),
)


@contextmanager
def reading(path: Path) -> Iterator[zipfile.ZipFile]:
    """Open a zip archive, and report any damage in it as one type of error.

    Raises:
        zipfile.BadZipFile: the archive is damaged, or uses features that torch's archives do not.
        OSError: the system cannot read the file.
    """
    try:
        with zipfile.ZipFile(path_or_file(path)) as archive:
            yield archive
    except OSError as error:
        if error.errno != errno.EINVAL:  # an offset in a damaged table, before the beginning
            raise OSError(error.errno, error.strerror, str(path)) from None
        raise zipfile.BadZipFile("an offset in it lies outside of it") from None
    except _DAMAGED as error:
        raise zipfile.BadZipFile(str(error) or type(error).__name__) from None


def entry(archive: zipfile.ZipFile, name: str) -> bytes:
    """The bytes of an entry, which has no more bytes than the file.

    Raises:
        zipfile.BadZipFile: the entry is compressed, so that it could unpack to any size. torch
            writes uncompressed entries.
    """
    info = archive.getinfo(name)
    if info.compress_type != zipfile.ZIP_STORED or info.file_size != info.compress_size:
        raise zipfile.BadZipFile(f"'{name}' is compressed, which torch does not do")
    return archive.read(info)


@dataclass(frozen=True, slots=True)
class StorageView:
    """A tensor as a view of a storage in an archive.

    Attributes:
        entry: name of the archive's entry that holds the storage.
        dtype: safetensors' name of the type.
        shape: the tensor's shape.
        stride: along each axis, the distance from one entry to the next, in values.
        offset: number of values before the first.
    """

    entry: str
    dtype: str
    shape: tuple[int, ...]
    stride: tuple[int, ...]
    offset: int

    @property
    def well_formed(self) -> bool:
        """Whether the fields have their types: a pickle can set them to anything."""
        numbers = (*self.shape, *self.stride, self.offset)
        return (
            type(self.entry) is str
            and type(self.dtype) is str
            and self.dtype in TYPES
            and all(type(number) is int for number in numbers)
        )

    def read(self, storage: bytes) -> RawTensor:
        """The tensor in C order.

        Raises:
            ValueError: the view is damaged, or reaches beyond its storage.
        """
        width = TYPES[self.dtype].width
        self._check_range(len(storage), width)
        if 0 in self.shape:
            return RawTensor(self.dtype, self.shape, np.zeros(0, np.uint8))
        values = np.frombuffer(storage, f"V{width}", count=len(storage) // width)
        strides = tuple(step * width for step in self.stride)
        view = np.lib.stride_tricks.as_strided(values[self.offset :], self.shape, strides)
        data = np.ascontiguousarray(view).reshape(-1).view(np.uint8)
        return RawTensor(self.dtype, self.shape, data)

    def _check_range(self, size: int, width: int) -> None:
        """Check that the view lies in a storage of ``size`` bytes, ``width`` bytes per value.

        Raises:
            ValueError: it does not.
        """
        sides = (*self.shape, *self.stride, self.offset)
        if len(self.shape) != len(self.stride) or any(side < 0 for side in sides):
            raise ValueError("its shape and strides are damaged")
        if math.prod(self.shape) * width > max(size, EXPANDED):
            raise ValueError("it is larger than its storage")
        steps = zip(self.shape, self.stride, strict=True)
        last = self.offset + sum((n - 1) * step for n, step in steps)
        if 0 not in self.shape and (last + 1) * width > size:
            raise ValueError("it reaches beyond its storage")


class Archive(FileCheckpoint):
    """A zip archive by torch. Its weights are read, and no program in it is run."""

    as_stored = True

    def __init__(self, path: Path) -> None:
        super().__init__(path)
        try:
            with reading(path) as archive:
                names = archive.namelist()
                self.root = names[0].partition("/")[0] if names else ""
                order = f"{self.root}/byteorder"
                if order in names and entry(archive, order) != b"little":
                    raise CheckpointError(f"{path}: holds big-endian numbers: save it again")
                self.views: Mapping[str, StorageView] = self.find(archive)
        except zipfile.BadZipFile as error:
            raise CheckpointError(f"{path}: not a whole {self.form} ({error})") from None
        if not all(view.well_formed for view in self.views.values()):
            raise CheckpointError(f"{path}: not a whole {self.form} (a tensor is damaged)")
        if not self.views:
            raise CheckpointError(f"{path}: holds no weights")
        self.infos = {name: TensorInfo(v.shape, v.dtype) for name, v in self.views.items()}
        self.aliases = self.ties(self.infos)

    @abstractmethod
    def find(self, archive: zipfile.ZipFile) -> Mapping[str, StorageView]:
        """The view of a storage that each tensor is, by its name in the network.

        Raises:
            CheckpointError: the archive's table of tensors is damaged, or calls for code.
        """

    def raw(self, name: str) -> RawTensor:
        """The bytes of one tensor."""
        view = self.views[name]
        try:
            with reading(self.path) as archive:
                return view.read(entry(archive, view.entry))
        except zipfile.BadZipFile as error:
            raise CheckpointError(f"{self.path}: '{name}' is damaged: {error}") from None

    def nbytes(self, name: str) -> int:
        """Bytes of one tensor."""
        return self.infos[name].size * TYPES[self.infos[name].dtype].width

    def ties(self, names: Iterable[str]) -> Mapping[str, str]:
        """Tensors that are equal views of one storage."""
        return equal_keys({name: self.views[name] for name in names if self.infos[name].size})
