"""Safetensors files, read through a memory map and written tensor by tensor, without torch."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import BinaryIO

import numpy as np
from safetensors import SafetensorError, safe_open

from rmtcli.checkpoint.base import Checkpoint, Manifest, TensorInfo
from rmtcli.checkpoint.dtypes import RawTensor
from rmtcli.errors import CheckpointError

#: Entry of the file's metadata that holds rmtcli's manifest.
MANIFEST_KEY = "rmtcli"


class SafetensorsFile(Checkpoint):
    """A safetensors file.

    The library checks the header (lengths, overlaps, types); the map then gives each tensor's
    bytes as they are, of any type. The format keeps no order, so names come in natural order:
    ``fc2`` before ``fc10``.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        try:
            with safe_open(path, framework="np") as file:
                self.metadata = file.metadata() or {}
        except SafetensorError as error:
            reason = str(error).splitlines()[0]
            raise CheckpointError(f"{path}: not a whole safetensors file ({reason})") from None
        self.extras = ()
        self._map = np.memmap(path, dtype=np.uint8, mode="r")
        start = 8 + int.from_bytes(self._map[:8].tobytes(), "little")
        header = json.loads(self._map[8:start].tobytes())
        header.pop("__metadata__", None)
        names = sorted(header, key=natural_order)
        self.infos = {n: TensorInfo(tuple(header[n]["shape"]), header[n]["dtype"]) for n in names}
        self._places = {
            n: slice(start + header[n]["data_offsets"][0], start + header[n]["data_offsets"][1])
            for n in names
        }
        self.manifest = Manifest.from_json(self.metadata.get(MANIFEST_KEY, ""))

    def raw(self, name: str) -> RawTensor:
        """A view of the mapped bytes."""
        info = self.infos[name]
        return RawTensor(info.dtype, info.shape, np.asarray(self._map[self._places[name]]))

    def ties(self, names: Iterable[str]) -> Mapping[str, str]:
        """Tensors with equal bytes: the format cannot say that two names share one storage."""
        first: dict[TensorInfo, list[str]] = {}
        ties = {}
        for name in names:
            alike = first.setdefault(self.infos[name], [])
            data = self._map[self._places[name]]
            twin = next((n for n in alike if _equal(self._map[self._places[n]], data)), None)
            if twin is None:
                alike.append(name)
            else:
                ties[name] = twin
        return ties


def _equal(a: np.ndarray, b: np.ndarray) -> bool:
    """Whether two byte arrays agree; the first page decides nearly always."""
    return np.array_equal(a[:4096], b[:4096]) and np.array_equal(a, b)


def natural_order(name: str) -> list[tuple[int, int, str]]:
    """Sort key under which numbers inside a name count as numbers."""
    parts = re.findall(r"\d{1,18}|\D+", name)  # longer runs of digits are no numbers
    return [(0, int(part), "") if part.isdecimal() else (1, 0, part) for part in parts]


def write_safetensors(checkpoint: Checkpoint, file: BinaryIO) -> None:
    """Write every tensor of ``checkpoint`` in safetensors form, one in memory at a time.

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
    sizes = {name: checkpoint.raw(name).data.nbytes for name in checkpoint.infos}
    names = sorted(sizes, key=lambda n: (-_item_size(checkpoint.infos[n], sizes[n]), n))
    for name in names:
        info, end = checkpoint.infos[name], offset + sizes[name]
        header[name] = {"dtype": info.dtype, "shape": info.shape, "data_offsets": [offset, end]}
        offset = end
    text = json.dumps(header, separators=(",", ":"), ensure_ascii=False).encode()
    text += b" " * (-len(text) % 8)
    file.write(len(text).to_bytes(8, "little") + text)
    for name in names:
        file.write(checkpoint.raw(name).data.data)


def _item_size(info: TensorInfo, size: int) -> float:
    return size / info.size if info.size else 0
