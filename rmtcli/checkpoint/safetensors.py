"""Safetensors files, read and written one tensor at a time, without torch."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError, __version__, safe_open

from rmtcli.checkpoint.base import HEAD_BYTES, Checkpoint, FileCheckpoint, TensorInfo
from rmtcli.checkpoint.dtypes import TYPES, RawTensor
from rmtcli.checkpoint.manifest import Manifest
from rmtcli.checkpoint.ties import equal_tensors
from rmtcli.errors import CheckpointError, first_line
from rmtcli.files import is_remote
from rmtcli.files.path import read_range, stand_in

#: Key of the file's metadata under which rmtcli's manifest is stored.
MANIFEST_KEY = "rmtcli"
#: Key under which libraries look for the framework that the tensors are for, and what is written
#: where the source does not say: transformers refuses a file with other text, and without this.
FORMAT_KEY, FORMAT = "format", "pt"
#: Bytes of a large tensor that are read at once where it is not needed as a whole.
_PIECE = 2**20


class SafetensorsFile(FileCheckpoint):
    """A safetensors file.

    The library checks the header (lengths, overlaps, types). Tensors of any type are then read as
    bytes, each time they are asked for: with a memory map, every page that was touched would count
    as memory in use. The format keeps no order, so names come in natural order: ``fc2`` before
    ``fc10``. Of tied names, one is stored, and the metadata give it for each of the others, as
    ``safetensors.torch.save_model`` has it. Of a right factor that siblings share, the manifest
    does. All names are listed.
    """

    form = "safetensors file"

    def __init__(self, path: Path) -> None:
        super().__init__(path)
        self._text, self._header, self._start = _read_header(path)
        self.adopt(Manifest.from_json(self._text.get(MANIFEST_KEY, "")))

    def adopt(self, record: Manifest | None) -> None:
        """Take a record, and list the right factors that it says are stored once."""
        header = dict(self._header)
        self.manifest = record and record.keep_shared(lambda name, _: name not in header)
        shared = {} if self.manifest is None else self.manifest.shared_factors
        tied = {name: other for name, other in self._text.items() if name != FORMAT_KEY}
        self.aliases = {
            name: other
            for name, other in (tied | shared).items()
            if other in header and name not in header
        }
        self.metadata = {key: x for key, x in self._text.items() if key not in self.aliases}
        header |= {name: header[other] for name, other in self.aliases.items()}
        names = sorted(header, key=natural_order)
        self.infos = {n: TensorInfo(tuple(header[n]["shape"]), header[n]["dtype"]) for n in names}
        self._ranges: dict[str, tuple[int, int]] = {
            n: (self._start + a, b - a) for n in names for a, b in [header[n]["data_offsets"]]
        }

    def raw(self, name: str) -> RawTensor:
        """The tensor's bytes, read from the file at each call, so that no memory holds them."""
        info = self.infos[name]
        return RawTensor(info.dtype, info.shape, self._read(*self._ranges[name]))

    def nbytes(self, name: str) -> int:
        """Bytes of one tensor."""
        return self._ranges[name][1]

    def rows(self, name: str, start: int, stop: int) -> RawTensor:
        """The entries ``start`` to ``stop`` along a tensor's first axis; no others are read."""
        (offset, size), info = self._ranges[name], self.infos[name]
        step = size // info.shape[0]
        data = self._read(offset + start * step, (stop - start) * step)
        return RawTensor(info.dtype, (stop - start, *info.shape[1:]), data)

    def pieces(self, name: str) -> Iterator[RawTensor]:
        """A large tensor in pieces of about a megabyte."""
        size, count = self.nbytes(name), (self.infos[name].shape or (1,))[0]
        if size <= _PIECE:
            yield self.raw(name)
            return
        step = max(1, count * _PIECE // size)
        for start in range(0, count, step):
            yield self.rows(name, start, min(start + step, count))

    def head(self, name: str) -> bytes:
        """The first bytes of one tensor; no others are read."""
        offset, size = self._ranges[name]
        return self._read(offset, min(HEAD_BYTES, size)).tobytes()

    def ties(self, names: Iterable[str]) -> Mapping[str, str]:
        """Tensors of equal bytes: the format cannot store two names for one tensor."""
        return equal_tensors(self, names)

    def _read(self, offset: int, size: int) -> NDArray[np.uint8]:
        if is_remote(self.path):
            data = np.frombuffer(read_range(self.path, offset, size), np.uint8)
        else:
            data = np.fromfile(self.path, np.uint8, count=size, offset=offset)
        if data.nbytes != size:
            raise CheckpointError(f"{self.path}: was cut short while it was read")
        return data


def _read_header(path: Path) -> tuple[dict[str, str], dict[str, Any], int]:
    """A file's text metadata, the header's entry of each tensor, and where the tensors begin.

    Raises:
        CheckpointError: the file is damaged.
    """
    with stand_in(path, _header_length) as local:
        try:
            with safe_open(local, framework="np") as opened:
                metadata = opened.metadata() or {}
        except SafetensorError as error:
            unknown = re.search(r"unknown variant `(\w+)`", str(error))
            raise CheckpointError(
                f"{path}: has a tensor of type {unknown[1]}, which safetensors {__version__} does "
                "not know"
                if unknown
                else f"{path}: not a whole safetensors file ({first_line(error)})"
            ) from None
        with local.open("rb") as file:
            length = _header_length(file.read(8))
            header = json.loads(file.read(length))
    header.pop("__metadata__", None)
    return metadata, header, 8 + length


def _header_length(start: bytes) -> int:
    return int.from_bytes(start, "little")


def natural_order(name: str) -> list[tuple[int, int, str]]:
    """Sort key by which numbers inside a name compare as numbers."""
    parts = re.findall(r"\d{1,18}|\D+", name)  # longer runs of digits are compared piece by piece
    return [(0, int(part), "") if part.isdecimal() else (1, 0, part) for part in parts]


def write_safetensors(checkpoint: Checkpoint, file: BinaryIO) -> None:
    """Write every tensor of ``checkpoint`` in safetensors form, one in memory at a time.

    Of tied names, one is written. The library's own writer needs all tensors in memory at once. The
    order is the library's: widest type first, then by name, so that every tensor is aligned.

    Raises:
        CheckpointError: an entry is not a plain tensor, or of a type that the format lacks.
    """
    if checkpoint.opaque:
        raise CheckpointError(
            f"{checkpoint.path}: '{checkpoint.opaque[0]}' cannot be stored in safetensors: "
            "write to a file of the input's format"
        )
    sizes = {name: checkpoint.nbytes(name) for name in checkpoint.distinct}
    types = {name: TYPES[checkpoint.infos[name].dtype] for name in sizes}
    for name, dtype in types.items():
        if not dtype.in_safetensors:
            raise CheckpointError(
                f"{checkpoint.path}: '{name}' is of type {dtype.word}, which safetensors does not "
                "have: write to a .pt file"
            )
    names = sorted(sizes, key=lambda name: (-types[name].bits, name))
    header = _header(checkpoint, {name: sizes[name] for name in names})
    file.write(len(header).to_bytes(8, "little") + header)
    for name in names:
        file.write(checkpoint.raw(name).data.data)


def _header(checkpoint: Checkpoint, sizes: Mapping[str, int]) -> bytes:
    """The header of a file with tensors of so many bytes, in this order; a multiple of 8 bytes.

    Raises:
        CheckpointError: a name cannot be encoded.
    """
    header: dict[str, object] = {"__metadata__": _metadata(checkpoint)}
    offset = 0
    for name, size in sizes.items():
        info, end = checkpoint.infos[name], offset + size
        header[name] = {"dtype": info.dtype, "shape": info.shape, "data_offsets": [offset, end]}
        offset = end
    try:
        encoded = json.dumps(header, separators=(",", ":"), ensure_ascii=False).encode()
    except UnicodeEncodeError:  # a pickle can hold a lone surrogate
        raise CheckpointError(
            f"{checkpoint.path}: a tensor's name is not valid Unicode, as safetensors requires"
        ) from None
    return encoded + b" " * (-len(encoded) % 8)


def _metadata(checkpoint: Checkpoint) -> dict[str, str]:
    """The text in the header: a format, the source's own text, rmtcli's record, the tied names."""
    metadata = {FORMAT_KEY: FORMAT, **checkpoint.metadata}
    metadata.pop(MANIFEST_KEY, None)
    manifest = checkpoint.manifest
    if manifest:
        metadata[MANIFEST_KEY] = manifest.to_json()
    shared = manifest.shared_factors if manifest else {}
    metadata |= {name: x for name, x in checkpoint.aliases.items() if name not in shared}
    return metadata
