"""Tensors in torch's zip archives, by their places; no code in them is run."""

from __future__ import annotations

import zipfile
from abc import abstractmethod
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from rmtcli.checkpoint.base import Opened, TensorInfo
from rmtcli.checkpoint.dtypes import RawTensor
from rmtcli.checkpoint.remote import source
from rmtcli.errors import CheckpointError

#: Bytes of one value of each type.
WIDTHS = {
    **dict.fromkeys(("U8", "I8", "BOOL", "F8_E4M3", "F8_E5M2"), 1),
    **dict.fromkeys(("F16", "BF16", "I16", "U16"), 2),
    **dict.fromkeys(("F32", "I32", "U32"), 4),
    **dict.fromkeys(("F64", "I64", "U64"), 8),
}


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

    def read(self, storage: bytes) -> RawTensor:
        """The tensor in C order.

        Raises:
            ValueError: it reaches beyond its storage, or its place is none.
        """
        width = WIDTHS[self.dtype]
        sides = (*self.shape, *self.stride, self.offset)
        if len(self.shape) != len(self.stride) or any(side < 0 for side in sides):
            raise ValueError("its shape and strides are damaged")
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
            with zipfile.ZipFile(source(path)) as archive:
                names = archive.namelist()
                self.root = names[0].partition("/")[0] if names else ""
                order = f"{self.root}/byteorder"
                if order in names and archive.read(order) != b"little":
                    raise CheckpointError(f"{path}: holds big-endian numbers: save it anew")
                self.places: Mapping[str, Place] = self.find(archive)
        except (zipfile.BadZipFile, KeyError, EOFError) as error:
            raise CheckpointError(f"{path}: not a whole {self.form} ({error})") from None
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
            with zipfile.ZipFile(source(self.path)) as archive:
                return place.read(archive.read(place.entry))
        except (zipfile.BadZipFile, KeyError, ValueError) as error:
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
