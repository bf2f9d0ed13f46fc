"""Packed tensors as what they stand for: on reading a file, and back on writing one."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from pathlib import Path

import numpy as np

from rmtcli.checkpoint.base import Checkpoint, FileCheckpoint, TensorInfo
from rmtcli.checkpoint.dtypes import RawTensor, decode
from rmtcli.checkpoint.edited import Edited, Edits
from rmtcli.checkpoint.in_file import InFile
from rmtcli.checkpoint.manifest import Manifest
from rmtcli.checkpoint.packing import CODES, Packed, part_names
from rmtcli.checkpoint.spill import Stored
from rmtcli.errors import CheckpointError

#: Ends of the names of further parts, which other kinds of packed tensors have.
_OTHERS = ("_zero_point", "_g_idx", "_global_scale")


class Unpacked(FileCheckpoint):
    """A file in which some tensors are packed; each of them is listed and read as one tensor.

    Args:
        file: the file as it is.

    Raises:
        CheckpointError: the parts of a packed tensor do not fit together.
    """

    def __init__(self, file: FileCheckpoint) -> None:
        self.file, self.path, self.form = file, file.path, file.form
        self.metadata, self.stamps = file.metadata, dict(file.stamps)
        self.extras, self.opaque, self.opaque_bytes = file.extras, file.opaque, file.opaque_bytes
        self.as_stored, self.about, self.key = file.as_stored, file.about, file.key
        self.remarks = file.remarks
        self._read_names()

    def _read_names(self) -> None:
        """List the tensors, each packed one at the position of its codes."""
        file = self.file
        self.manifest = file.manifest
        types = {} if file.manifest is None else file.manifest.packed
        self._packed = {
            name: _packed(file, name, types.get(name, {}).get("dtype"))
            for name in packed_names(file.infos)
        }
        first = {part_names(name)[0]: name for name in self._packed}
        hidden = {part for name in self._packed for part in part_names(name)}
        self.infos: Mapping[str, TensorInfo] = {
            first.get(name, name): self._info(first.get(name, name), info)
            for name, info in file.infos.items()
            if name in first or name not in hidden
        }
        self.aliases = {
            first.get(name, name): first.get(other, other)
            for name, other in file.aliases.items()
            if name in first or name not in hidden
        }

    def _info(self, name: str, info: TensorInfo) -> TensorInfo:
        packed = self._packed.get(name)
        return info if packed is None else TensorInfo(packed.shape, packed.dtype)

    def __reduce__(self) -> tuple[Callable[..., object], tuple[object, ...]]:
        return Unpacked, (self.file,)

    def adopt(self, record: Manifest) -> None:
        """Take a record that was kept elsewhere."""
        self.file.adopt(record)
        self._read_names()

    @property
    def files(self) -> tuple[Path, ...]:
        """The file itself."""
        return self.file.files

    def raw(self, name: str) -> RawTensor:
        """The bytes of one tensor; those of a packed one are computed.

        Raises:
            CheckpointError: they are beyond the range of the tensor's type.
        """
        if name not in self._packed:
            return self.file.raw(name)
        try:
            return self._packed[name].read()
        except OverflowError as error:
            raise CheckpointError(f"{self.path}: '{name}': damaged scales: {error}") from None

    def nbytes(self, name: str) -> int:
        """Bytes of one tensor in the file."""
        return self._packed[name].nbytes if name in self._packed else self.file.nbytes(name)

    def packed(self, name: str) -> Packed | None:
        """The parts of a packed tensor; None for any other."""
        return self._packed.get(name)

    def edits_of_file(self, edits: Edits) -> Edits:
        """Edits by the names of the file's own tensors: new ones take the place of the codes."""
        result: dict[str, Mapping[str, Stored]] = {}
        for name, new in edits.items():
            old = part_names(name) if name in self._packed else (name,)
            result |= {part: {} for part in old} | {old[0]: new}
        return result

    def ties(self, names: Iterable[str]) -> Mapping[str, str]:
        """The file's ties; packed tensors are tied where their codes are."""
        stored = {(part_names(n)[0] if n in self._packed else n): n for n in names}
        return {stored[a]: stored[b] for a, b in self.file.ties(stored).items()}


def packed_names(names: Iterable[str]) -> list[str]:
    """Names of the tensors of which all three parts are among ``names``, and no others.

    A tensor with zero points, or with a scale of all scales, is of another kind.
    """
    every = set(names)
    ends = (name.removesuffix(CODES) for name in names if name.endswith(CODES))
    return [
        name
        for name in ends
        if every.issuperset(part_names(name))
        and every.isdisjoint((name, *(name + other for other in _OTHERS)))
    ]


def _packed(file: Checkpoint, name: str, dtype: str | None) -> Packed:
    """A packed tensor of a file.

    Args:
        file: the file.
        name: the tensor.
        dtype: its type; None for the type of its scales.

    Raises:
        CheckpointError: its parts do not fit together.
    """
    codes, scales, shape = (InFile(file, part) for part in part_names(name))
    where = f"{file.path}: '{name}'"
    if shape.dtype not in ("I64", "I32") or shape.shape != (2,):
        raise CheckpointError(f"{where}: its shape is not stored as two whole numbers")
    sides = tuple(int(side) for side in decode(shape.read()).astype(np.int64))
    packed = Packed(dtype or scales.dtype, sides, codes, scales)
    packed.check(where)
    return packed


def unpacked(file: FileCheckpoint) -> FileCheckpoint:
    """A file with its packed tensors as what they stand for; the file itself if it has none."""
    return Unpacked(file) if packed_names(file.infos) else file


def as_written(checkpoint: Checkpoint) -> Checkpoint:
    """A checkpoint with the tensors that its file holds: the parts of packed ones by themselves.

    Tensors that are packed in its source, and not in its record, are written as what they stand
    for.
    """
    source = checkpoint.source if isinstance(checkpoint, Edited) else checkpoint
    edits = dict(checkpoint.edits) if isinstance(checkpoint, Edited) else {}
    new: dict[str, Mapping[str, Stored]] = {}
    made: dict[str, Mapping[str, Stored]] = {}  # parts that several names share
    for name in checkpoint.infos:
        packed, first = checkpoint.packed(name), checkpoint.aliases.get(name, name)
        if packed is not None:
            parts = made.setdefault(first, packed.parts(name))
            new[name] = dict(zip(part_names(name), parts.values(), strict=True))
        elif name in source.infos and name not in edits and source.packed(name) is not None:
            new[name] = {name: made.setdefault(first, {name: InFile(checkpoint, name)})[first]}
    if not new:
        return checkpoint
    for old, group in edits.items():
        edits[old] = {
            part: each
            for name, stored in group.items()
            for part, each in new.get(name, {name: stored}).items()
        }
    edits |= {x: new[x] for x in new if x in source.infos and x not in edits}
    return Edited(source, edits, checkpoint.manifest)
