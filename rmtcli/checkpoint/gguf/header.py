"""The header of a GGUF file: what it says of its tensors, and of the network a few facts.

Source: the specification of GGUF, versions 2 and 3 (ggml-org/ggml, docs/gguf.md). Every length in
it is compared with the bytes that are left before it is used.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from rmtcli.errors import CheckpointError

#: First bytes of every file, and the versions that are read.
MAGIC, VERSIONS = b"GGUF", (2, 3)
#: Bytes at a multiple of which tensors begin, where a file says nothing else.
_ALIGNMENT = 32
#: Key of the entry that says it.
_ALIGNMENT_KEY = "general.alignment"
#: Numbers of the types of entries: a string, and an array; and bytes of each other type.
_STRING, _ARRAY = 8, 9
_SIZES = {0: 1, 1: 1, 2: 2, 3: 2, 4: 4, 5: 4, 6: 4, 7: 1, 10: 8, 11: 8, 12: 8}
#: How an entry that is a whole number without a sign is read.
_WHOLE = {0: "<B", 2: "<H", 4: "<I", 10: "<Q"}
#: Most dimensions of a tensor, most bytes of its name, and most strings of all arrays.
_DIMENSIONS, _NAME, _STRINGS = 4, 10_000, 10_000_000


@dataclass(frozen=True, slots=True)
class Entry:
    """A tensor as the header describes it.

    Attributes:
        shape: its shape, rows first.
        kind: number of its type.
        offset: its first byte, from the beginning of the file.
    """

    shape: tuple[int, ...]
    kind: int
    offset: int


@dataclass(frozen=True, slots=True)
class Header:
    """What a header says.

    Attributes:
        entries: the tensors, by name.
        text: the entries that are strings, by key.
    """

    entries: dict[str, Entry]
    text: dict[str, str]


def read_header(path: Path) -> Header:
    """Read the header of a file.

    Raises:
        CheckpointError: it is damaged, of another version, or of a machine with other byte order.
    """
    with path.open("rb") as file:
        return _Reader(file, path).header()


class _Reader:
    """Reads a header from an open file, front to back.

    Args:
        file: the file.
        path: its path, for messages.
    """

    def __init__(self, file: BinaryIO, path: Path) -> None:
        self._file, self._path, self._end = file, path, path.stat().st_size
        self._strings = _STRINGS

    def header(self) -> Header:
        """The whole header."""
        if self._take(4) != MAGIC:
            raise self._damaged("it does not begin with 'GGUF'")
        version = self._number("<I")
        if version not in VERSIONS:
            swapped = int.from_bytes(version.to_bytes(4, "little"), "big") in VERSIONS
            words = "of a big-endian machine" if swapped else f"of version {version}"
            raise CheckpointError(f"{self._path}: a GGUF file {words}: versions 2 and 3 are read")
        tensors, keys = self._number("<Q"), self._number("<Q")
        text: dict[str, str] = {}
        alignment = _ALIGNMENT
        for _ in range(keys):
            key, kind = self._string(), self._number("<I")
            if key == _ALIGNMENT_KEY and kind in _WHOLE:
                alignment = self._number(_WHOLE[kind])
            elif kind == _STRING:
                text[key] = self._string()
            else:
                self._skip(kind)
        if alignment < 1 or alignment & (alignment - 1):
            raise self._damaged(f"its tensors are aligned to {alignment} bytes")
        entries: dict[str, Entry] = {}
        for _ in range(tensors):
            name, entry = self._entry()
            if name in entries:
                raise self._damaged("two of its tensors have one name")
            entries[name] = entry
        start = -(-self._file.tell() // alignment) * alignment
        moved = {name: Entry(x.shape, x.kind, start + x.offset) for name, x in entries.items()}
        return Header(moved, text)

    def _entry(self) -> tuple[str, Entry]:
        """Name and description of the next tensor; its dimensions are stored columns first."""
        name, count = self._string(_NAME), self._number("<I")
        if count > _DIMENSIONS:
            raise self._damaged(f"a tensor has {count} dimensions")
        shape = tuple(self._number("<Q") for _ in range(count))[::-1]
        return name, Entry(shape, self._number("<I"), self._number("<Q"))

    def _skip(self, kind: int) -> None:
        """Pass over a value of a type."""
        if kind != _ARRAY:
            self._pass(self._size(kind))
            return
        inner, count = self._number("<I"), self._number("<Q")
        if inner != _STRING:
            self._pass(self._size(inner) * count)
            return
        self._strings -= count
        if self._strings < 0:
            raise self._damaged(f"it lists more than {_STRINGS:,} strings")
        for _ in range(count):
            self._pass(self._number("<Q"))

    def _size(self, kind: int) -> int:
        """Bytes of a value of a type of fixed size."""
        if kind not in _SIZES:
            raise self._damaged(f"it has an entry of the unknown type {kind}")
        return _SIZES[kind]

    def _string(self, most: int = 2**24) -> str:
        size = self._number("<Q")
        if size > most:
            raise self._damaged(f"it has a text of {size:,} bytes")
        try:
            return self._take(size).decode()
        except UnicodeDecodeError:
            raise self._damaged("it has a text that is not UTF-8") from None

    def _number(self, form: str) -> int:
        (value,) = struct.unpack(form, self._take(struct.calcsize(form)))
        return int(value)

    def _take(self, size: int) -> bytes:
        """The next bytes."""
        self._check(size)
        return self._file.read(size)

    def _pass(self, size: int) -> None:
        """Leave out the next bytes."""
        self._check(size)
        self._file.seek(size, 1)

    def _check(self, size: int) -> None:
        """Make sure that the file has so many more bytes.

        Raises:
            CheckpointError: it ends before.
        """
        if size > self._end - self._file.tell():
            raise self._damaged("it ends within its header")

    def _damaged(self, reason: str) -> CheckpointError:
        return CheckpointError(f"{self._path}: not a whole GGUF file: {reason}: download it again")
