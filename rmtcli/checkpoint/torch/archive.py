"""Tensors in torch's zip archives, by their places; no code in them is run."""

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

from rmtcli.checkpoint.base import Opened, TensorInfo
from rmtcli.checkpoint.dtypes import RawTensor
from rmtcli.errors import CheckpointError
from rmtcli.files.path import source

#: Bytes of one value of each type.
WIDTHS = {
    **dict.fromkeys(("U8", "I8", "BOOL", "F8_E4M3", "F8_E5M2"), 1),
    **dict.fromkeys(("F16", "BF16", "I16", "U16"), 2),
    **dict.fromkeys(("F32", "I32", "U32"), 4),
    **dict.fromkeys(("F64", "I64", "U64"), 8),
}


#: A view may be larger than its storage, as ``expand`` makes them; beyond this it is an attack.
EXPANDED = 16 * 2**20


#: What zipfile and numpy raise where bytes lead them. Encryption is a RuntimeError, an unknown
#: method a NotImplementedError, and a name that is no text a ValueError.
_DAMAGED = (
    *(EOFError, KeyError, OverflowError, RuntimeError, ValueError),
    *(struct.error, zlib.error),
)


@contextmanager
def reading(path: Path) -> Iterator[zipfile.ZipFile]:
    """A zip archive to read from; whatever is wrong with its bytes is one kind of error.

    Raises:
        zipfile.BadZipFile: it is damaged, or uses what torch's archives do not.
        OSError: the system cannot read it.
    """
    try:
        with zipfile.ZipFile(source(path)) as archive:
            yield archive
    except OSError as error:
        if error.errno != errno.EINVAL:  # a place before the beginning, to which a table points
            raise OSError(error.errno, error.strerror, str(path)) from None
        raise zipfile.BadZipFile("a place in it is none") from None
    except _DAMAGED as error:
        raise zipfile.BadZipFile(str(error) or type(error).__name__) from None


def entry(archive: zipfile.ZipFile, name: str) -> bytes:
    """The bytes of an entry, which are no more than the file has.

    Raises:
        zipfile.BadZipFile: it is compressed, which torch's are not: it could be of any size.
    """
    found = archive.getinfo(name)
    if found.compress_type != zipfile.ZIP_STORED or found.file_size != found.compress_size:
        raise zipfile.BadZipFile(f"'{name}' is compressed, and torch compresses none")
    return archive.read(found)


@dataclass(frozen=True, slots=True)
class Place:
    """Where a tensor's values are.

    Attributes:
        entry: name of the archive's entry that holds the storage.
        dtype: safetensors' name of the type.
        shape: its shape.
        stride: values from one entry to the next, along each axis.
        offset: values before the first.
    """

    entry: str
    dtype: str
    shape: tuple[int, ...]
    stride: tuple[int, ...]
    offset: int

    @property
    def whole(self) -> bool:
        """Whether the fields are what they should be: a pickle can set them to anything."""
        numbers = (*self.shape, *self.stride, self.offset)
        return (
            type(self.entry) is str
            and type(self.dtype) is str
            and self.dtype in WIDTHS
            and all(type(number) is int for number in numbers)
        )

    def read(self, storage: bytes) -> RawTensor:
        """The tensor in C order.

        Raises:
            ValueError: it reaches beyond its storage, or its place is none.
        """
        width = WIDTHS[self.dtype]
        sides = (*self.shape, *self.stride, self.offset)
        if len(self.shape) != len(self.stride) or any(side < 0 for side in sides):
            raise ValueError("its shape and strides are damaged")
        if math.prod(self.shape) * width > max(len(storage), EXPANDED):
            raise ValueError("it is larger than its storage")
        steps = zip(self.shape, self.stride, strict=True)
        last = self.offset + sum((n - 1) * step for n, step in steps)
        empty = 0 in self.shape
        if not empty and (last + 1) * width > len(storage):
            raise ValueError("it reaches beyond its storage")
        values = np.frombuffer(storage, f"V{width}", count=len(storage) // width)
        if empty:
            return RawTensor(self.dtype, self.shape, np.zeros(0, np.uint8))
        strides = tuple(step * width for step in self.stride)
        seen = np.lib.stride_tricks.as_strided(values[self.offset :], self.shape, strides)
        data = np.ascontiguousarray(seen).reshape(-1).view(np.uint8)
        return RawTensor(self.dtype, self.shape, data)


class Archive(Opened):
    """An archive that holds a program and its weights. The weights are read, and nothing is run."""

    as_stored = True

    def __init__(self, path: Path) -> None:
        self.path = path
        self.manifest, self.metadata, self.extras = None, {}, ()
        try:
            with reading(path) as archive:
                names = archive.namelist()
                self.root = names[0].partition("/")[0] if names else ""
                order = f"{self.root}/byteorder"
                if order in names and entry(archive, order) != b"little":
                    raise CheckpointError(f"{path}: holds big-endian numbers: save it anew")
                self.places: Mapping[str, Place] = self.find(archive)
        except zipfile.BadZipFile as error:
            raise CheckpointError(f"{path}: not a whole {self.form} ({error})") from None
        if not all(place.whole for place in self.places.values()):
            raise CheckpointError(f"{path}: not a whole {self.form} (a tensor's place is none)")
        if not self.places:
            raise CheckpointError(f"{path}: holds no weights")
        self.infos = {name: TensorInfo(p.shape, p.dtype) for name, p in self.places.items()}
        self.shared = frozenset(self.ties(self.infos))

    @abstractmethod
    def find(self, archive: zipfile.ZipFile) -> Mapping[str, Place]:
        """The place of each tensor, by its name in the network.

        Raises:
            CheckpointError: the archive does not say.
        """

    def raw(self, name: str) -> RawTensor:
        """The bytes of one tensor."""
        place = self.places[name]
        try:
            with reading(self.path) as archive:
                return place.read(entry(archive, place.entry))
        except zipfile.BadZipFile as error:
            raise CheckpointError(f"{self.path}: '{name}' is damaged: {error}") from None

    def nbytes(self, name: str) -> int:
        """Size of one tensor."""
        return self.infos[name].size * WIDTHS[self.infos[name].dtype]

    def ties(self, names: Iterable[str]) -> Mapping[str, str]:
        """Tensors that look at the same storage in the same way."""
        first: dict[Place, str] = {}
        ties = {}
        for name in names:
            twin = first.setdefault(self.places[name], name)
            if twin != name and self.infos[name].size:
                ties[name] = twin
        return ties
