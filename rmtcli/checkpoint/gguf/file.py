"""GGUF files as checkpoints: tensors in blocks of few bits are read as their values."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from rmtcli.checkpoint.base import About, FileCheckpoint, TensorInfo
from rmtcli.checkpoint.dtypes import TYPES, RawTensor
from rmtcli.checkpoint.gguf.header import Entry, read_header
from rmtcli.checkpoint.ties import equal_tensors
from rmtcli.errors import CheckpointError, UsageError
from rmtcli.files import is_remote
from rmtcli.files.path import read_range

#: Types whose values stand in the file one by one, by their numbers.
_PLAIN = {0: "F32", 1: "F16", 24: "I8", 25: "I16", 26: "I32", 27: "I64", 28: "F64", 30: "BF16"}
#: The table of tokens, whose rows are as many as the output head's.
_TABLE = "token_embd.weight"


@dataclass(frozen=True, slots=True)
class _Blocks:
    """A type that packs rows in blocks.

    Attributes:
        kind: its value in the gguf package.
        entries: entries of a block.
        size: bytes of a block.
    """

    kind: Any
    entries: int
    size: int

    def values(self, data: NDArray[np.uint8]) -> NDArray[np.float32]:
        """The values of some blocks."""
        blocks = data.reshape(-1, self.size)
        values = import_module("gguf.quants").dequantize(blocks, self.kind)
        return np.ascontiguousarray(values, "<f4")


class GgufFile(FileCheckpoint):
    """A GGUF file, which is read only.

    Names are those of llama.cpp, such as ``blk.0.ffn_up.weight``. Tensors in blocks of few bits are
    listed and read as float32; their size is that of the file. Their values are computed by the
    gguf package; files without any do not need it.
    """

    form = "GGUF file"

    def __init__(self, path: Path) -> None:
        super().__init__(path)
        header, known = read_header(path), dict[int, _Blocks | None]()
        self._entries, infos, end = header.entries, dict[str, TensorInfo](), path.stat().st_size
        self._blocks: dict[str, _Blocks] = {}
        for name, entry in header.entries.items():
            if entry.kind in _PLAIN:
                infos[name] = TensorInfo(entry.shape, _PLAIN[entry.kind])
            else:
                if entry.kind not in known:
                    known[entry.kind] = _blocks_of(entry.kind, path)
                if (blocks := known[entry.kind]) is None:
                    continue
                self._blocks[name] = blocks
                infos[name] = TensorInfo(entry.shape, "F32")
            self._check(name, entry, end)
        self.infos = infos
        self.opaque = tuple(name for name in header.entries if name not in infos)
        self.metadata = header.text
        rows = infos[_TABLE].shape[:1] if _TABLE in infos else ()
        self.about = About(vocabularies=frozenset(rows))

    def _check(self, name: str, entry: Entry, end: int) -> None:
        """Make sure that a tensor is in the file.

        Raises:
            CheckpointError: it is not, or its rows do not divide into blocks.
        """
        blocks = self._blocks.get(name)
        if blocks is not None and (not entry.shape or entry.shape[-1] % blocks.entries):
            raise CheckpointError(
                f"{self.path}: damaged: the rows of '{name}' are no multiple of {blocks.entries}"
            )
        if entry.offset + self.nbytes(name) > end:
            raise CheckpointError(
                f"{self.path}: not a whole GGUF file: '{name}' is beyond its end: download it again"
            )

    def nbytes(self, name: str) -> int:
        """Bytes of one tensor in the file."""
        entry, blocks = self._entries[name], self._blocks.get(name)
        count = math.prod(entry.shape)
        if blocks is None:
            return count * TYPES[_PLAIN[entry.kind]].width
        return count // blocks.entries * blocks.size

    def raw(self, name: str) -> RawTensor:
        """The bytes of one tensor, or of the values that its blocks have."""
        return self._read(name, self.infos[name].shape, 0, self.nbytes(name))

    def rows(self, name: str, start: int, stop: int) -> RawTensor:
        """The entries ``start`` to ``stop`` along a tensor's first axis; no others are read."""
        shape = self.infos[name].shape
        step = self.nbytes(name) // shape[0]
        if len(shape) < 2 and name in self._blocks:  # an entry is less than a block
            return super().rows(name, start, stop)
        return self._read(name, (stop - start, *shape[1:]), start * step, (stop - start) * step)

    def _read(self, name: str, shape: tuple[int, ...], start: int, size: int) -> RawTensor:
        entry, blocks = self._entries[name], self._blocks.get(name)
        offset = entry.offset + start
        if is_remote(self.path):
            data = np.frombuffer(read_range(self.path, offset, size), np.uint8)
        else:
            data = np.fromfile(self.path, np.uint8, size, offset=offset)
        if blocks is not None:
            data = blocks.values(data).reshape(-1).view(np.uint8)
        return RawTensor(self.infos[name].dtype, shape, data)

    def ties(self, names: Iterable[str]) -> Mapping[str, str]:
        """Tensors of equal bytes."""
        return equal_tensors(self, names)


def _blocks_of(number: int, path: Path) -> _Blocks | None:
    """A type that packs rows in blocks; None if their values cannot be computed.

    Raises:
        UsageError: the gguf package is not installed.
        CheckpointError: there is no such type.
    """
    if find_spec("gguf") is None:
        raise UsageError(f"{path}: weights in blocks of few bits need gguf: pip install gguf")
    gguf: Any = import_module("gguf")
    try:
        kind = gguf.GGMLQuantizationType(number)
        entries, size = gguf.GGML_QUANT_SIZES[kind]
    except (ValueError, KeyError):
        raise CheckpointError(f"{path}: a tensor has the unknown type {number}") from None
    blocks = _Blocks(kind, entries, size)
    try:
        blocks.values(np.zeros(size, np.uint8))
    except NotImplementedError:
        return None
    return blocks
