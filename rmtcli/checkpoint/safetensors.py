"""Safetensors files, read and written tensor by tensor, without torch."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import BinaryIO

import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError, safe_open

from rmtcli.checkpoint.base import Checkpoint, Manifest, Opened, TensorInfo
from rmtcli.checkpoint.dtypes import RawTensor
from rmtcli.checkpoint.ties import HEAD, equal_tensors
from rmtcli.errors import CheckpointError, first_line
from rmtcli.files import is_remote
from rmtcli.files.path import read_range, stand_in

#: Entry of the file's metadata that holds rmtcli's manifest.
MANIFEST_KEY = "rmtcli"


class SafetensorsFile(Opened):
    """A safetensors file.

    The library checks the header (lengths, overlaps, types); a tensor's bytes are then read as they
    are, of any type, when they are asked for. A memory map would count every page that was touched
    as memory in use. The format keeps no order, so names come in natural order: ``fc2`` before
    ``fc10``. A right factor that siblings share stands there once, and here under each one's name.
    """

    form = "safetensors file"

    def __init__(self, path: Path) -> None:
        self.path = path
        with stand_in(path, _header_length) as local:
            try:
                with safe_open(local, framework="np") as file:
                    self.metadata = file.metadata() or {}
            except SafetensorError as error:
                raise CheckpointError(
                    f"{path}: not a whole safetensors file ({first_line(error)})"
                ) from None
            with local.open("rb") as file:
                start = 8 + _header_length(file.read(8))
                header = json.loads(file.read(start - 8))
        self.extras = ()
        header.pop("__metadata__", None)
        record = Manifest.from_json(self.metadata.get(MANIFEST_KEY, ""))
        self.manifest = record and record.sharing(lambda name, _: name not in header)
        borrowed = {} if self.manifest is None else self.manifest.borrowed
        lent = {name: header[other] for name, other in borrowed.items() if other in header}
        self.shared = frozenset(lent)
        header |= lent
        names = sorted(header, key=natural_order)
        self.infos = {n: TensorInfo(tuple(header[n]["shape"]), header[n]["dtype"]) for n in names}
        self._places: dict[str, tuple[int, int]] = {
            n: (start + a, b - a) for n in names for a, b in [header[n]["data_offsets"]]
        }

    def raw(self, name: str) -> RawTensor:
        """The tensor's bytes, read anew each time, so that nobody's memory holds them."""
        info = self.infos[name]
        return RawTensor(info.dtype, info.shape, self._read(*self._places[name]))

    def nbytes(self, name: str) -> int:
        """Size of one tensor."""
        return self._places[name][1]

    def rows(self, name: str, start: int, stop: int) -> RawTensor:
        """Some entries of a tensor along its first axis; only they are read."""
        (offset, size), info = self._places[name], self.infos[name]
        step = size // info.shape[0]
        data = self._read(offset + start * step, (stop - start) * step)
        return RawTensor(info.dtype, (stop - start, *info.shape[1:]), data)

    def head(self, name: str) -> bytes:
        """The first bytes of one tensor."""
        offset, size = self._places[name]
        return self._read(offset, min(HEAD, size)).tobytes()

    def ties(self, names: Iterable[str]) -> Mapping[str, str]:
        """Tensors with equal bytes: the format cannot say that two names share one storage."""
        return equal_tensors(names, self.infos, self.head, self.raw, self.lent)

    def _read(self, offset: int, size: int) -> NDArray[np.uint8]:
        if is_remote(self.path):
            found = np.frombuffer(read_range(self.path, offset, size), np.uint8)
        else:
            found = np.fromfile(self.path, np.uint8, count=size, offset=offset)
        if found.nbytes != size:
            raise CheckpointError(f"{self.path}: was cut short while it was read")
        return found


def _header_length(start: bytes) -> int:
    return int.from_bytes(start, "little")


def natural_order(name: str) -> list[tuple[int, int, str]]:
    """Sort key under which numbers inside a name count as numbers."""
    parts = re.findall(r"\d{1,18}|\D+", name)  # longer runs of digits are no numbers
    return [(0, int(part), "") if part.isdecimal() else (1, 0, part) for part in parts]


def write_safetensors(checkpoint: Checkpoint, file: BinaryIO) -> None:
    """Write every tensor of ``checkpoint`` in safetensors form, one in memory at a time.

    A right factor that siblings share is written once.

    The library's own writer wants all tensors in memory at once. The order is the library's:
    widest type first, then by name, so that every tensor is aligned.

    Raises:
        CheckpointError: an entry is no plain tensor.
    """
    if checkpoint.opaque:
        raise CheckpointError(
            f"{checkpoint.path}: '{checkpoint.opaque[0]}' cannot be stored in safetensors: "
            "write to a file of the input's format"
        )
    metadata = {key: text for key, text in checkpoint.metadata.items() if key != MANIFEST_KEY}
    if checkpoint.manifest:
        metadata[MANIFEST_KEY] = checkpoint.manifest.to_json()
    header: dict[str, object] = {"__metadata__": metadata} if metadata else {}
    offset = 0
    sizes = {name: checkpoint.nbytes(name) for name in checkpoint.distinct}
    names = sorted(sizes, key=lambda n: (-_item_size(checkpoint.infos[n], sizes[n]), n))
    for name in names:
        info, end = checkpoint.infos[name], offset + sizes[name]
        header[name] = {"dtype": info.dtype, "shape": info.shape, "data_offsets": [offset, end]}
        offset = end
    try:
        text = json.dumps(header, separators=(",", ":"), ensure_ascii=False).encode()
    except UnicodeEncodeError:  # pickles can hold half a character
        raise CheckpointError(
            f"{checkpoint.path}: a tensor's name is no text, and cannot be stored in safetensors"
        ) from None
    text += b" " * (-len(text) % 8)
    file.write(len(text).to_bytes(8, "little") + text)
    for name in names:
        file.write(checkpoint.raw(name).data.data)


def _item_size(info: TensorInfo, size: int) -> float:
    return size / info.size if info.size else 0
