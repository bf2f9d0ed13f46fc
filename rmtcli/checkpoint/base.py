"""What every checkpoint offers, whatever its format, and a checkpoint with changes laid over it."""

from __future__ import annotations

import json
import math
from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from dataclasses import asdict, dataclass, field, replace
from functools import lru_cache
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np
from numpy.typing import NDArray

from rmtcli.checkpoint.dtypes import RawTensor, decode
from rmtcli.checkpoint.names import factors_of
from rmtcli.checkpoint.spill import Stored
from rmtcli.errors import CheckpointError
from rmtcli.files import is_remote

#: For each tensor that is replaced, the tensors in its place.
Edits = Mapping[str, Mapping[str, Stored]]

#: What tells whether a file was changed.
Stamp = tuple[int, int, int]

#: Version of the manifest's layout.
MANIFEST_VERSION = 1


def stamp_of(path: Path) -> Stamp:
    """A file's size, time of change in nanoseconds, and number; from afar, its size alone."""
    found = path.stat()
    if is_remote(path):
        return found.st_size, 0, 0
    return found.st_size, found.st_mtime_ns, found.st_ino


@dataclass(frozen=True, slots=True)
class TensorInfo:
    """Shape and type of a stored tensor, known without reading it."""

    shape: tuple[int, ...]
    dtype: str

    @property
    def size(self) -> int:
        """Number of entries."""
        return math.prod(self.shape)


@dataclass(frozen=True, slots=True)
class Manifest:
    """What rmtcli wrote into a file about itself.

    Attributes:
        rmtcli: version that wrote it.
        source: name of the file it was made from.
        source_sha256: hash of that file.
        keep: the keep rule, all options spelled out.
        edge: the edge estimator, likewise.
        factored: rank of each module that was split, by module name.
        made_by: what decided the ranks, in words.
        ranks: rank of each layer that was pruned last, by layer name, whatever the layout.
        shared: for each split module whose right factor is a sibling's: that sibling's module.
        version: layout of this record.
    """

    rmtcli: str
    source: str
    source_sha256: str
    keep: str
    edge: str
    factored: Mapping[str, int]
    made_by: str = ""
    ranks: Mapping[str, int] = field(default_factory=dict)
    shared: Mapping[str, str] = field(default_factory=dict)
    version: int = MANIFEST_VERSION

    @property
    def borrowed(self) -> dict[str, str]:
        """For each right factor that is a sibling's: the name under which the sibling has it."""
        return {factors_of(a)[0]: factors_of(b)[0] for a, b in self.shared.items()}

    def sharing(self, shares: Callable[[str, str], bool]) -> Manifest:
        """The record without what is no longer so: someone may have given layers factors apart.

        Args:
            shares: whether the file has one tensor for two right factors, or the first not at all.
        """
        pairs = zip(self.shared.items(), self.borrowed.items(), strict=True)
        return replace(self, shared=dict(modules for modules, names in pairs if shares(*names)))

    def tied(self, ties: Mapping[str, str]) -> Manifest:
        """The same, for a file that tells which names stand for one storage."""
        return self.sharing(
            lambda name, other: name != other and ties.get(name, name) == ties.get(other, other)
        )

    def to_json(self) -> str:
        """One line of JSON."""
        return json.dumps(asdict(self), sort_keys=True)

    @staticmethod
    def from_json(text: str) -> Manifest | None:
        """The manifest that ``text`` holds; None where it is not one this version can read."""
        try:
            fields: Any = json.loads(text)
            manifest = Manifest(**fields)
            ranks = all(
                type(rank) is int
                for found in (manifest.factored, manifest.ranks)
                for rank in found.values()
            )
            siblings = all(type(module) is str for module in manifest.shared.values())
        except (ValueError, TypeError, AttributeError, RecursionError):
            return None
        whole = ranks and siblings and manifest.version == MANIFEST_VERSION
        return manifest if whole else None


@dataclass(frozen=True, slots=True)
class About:
    """What is known of a network beside its tensors, from the configuration in its directory.

    Attributes:
        transposed: last words in the names of modules whose weights are stored as in × out.
        vocabularies: a matrix with so many rows is an embedding or an output head.
        quantized: the method by which another tool has quantised the weights, or empty.
        linear_only: whether the program that loads the directory knows factors of linear layers
            only.
    """

    transposed: frozenset[str] = frozenset()
    vocabularies: frozenset[int] = frozenset()
    quantized: str = ""
    linear_only: bool = False


class Checkpoint(ABC):
    """Named tensors in a file or a directory.

    Attributes:
        path: the file or directory.
        form: what a user calls the format.
        infos: shape and type of each tensor; in the model's order where the format keeps one.
        manifest: rmtcli's own record, if the file has one.
        metadata: the file's own notes, text by name.
        extras: names of what stands beside the tensors, such as an optimizer's state.
        opaque: names of entries among the tensors that only the file's own format can hold.
        as_stored: whether the order of ``infos`` is the network's own.
        shared: names that take no room in the file, because an earlier one has the same storage.
        about: what is known beside the tensors.
        stamps: size, time of change and number of each file when it was opened.
    """

    path: Path
    form: str = "in memory"
    infos: Mapping[str, TensorInfo]
    manifest: Manifest | None
    metadata: Mapping[str, str]
    extras: tuple[str, ...]
    opaque: tuple[str, ...] = ()
    shared: frozenset[str] = frozenset()
    as_stored: bool = False
    about: About = About()
    stamps: Mapping[Path, Stamp] = MappingProxyType({})

    def check_unchanged(self) -> None:
        """Make sure that tensors read early and late are of one checkpoint.

        A file that is gone by now is no fault: all that was wanted of it has been read.

        Raises:
            CheckpointError: a file was written to, or another put in its place.
        """
        for path, stamp in self.stamps.items():
            if path.exists() and stamp_of(path) != stamp:
                raise CheckpointError(
                    f"{path}: was changed while it was read, so nothing was written: run again "
                    "when it is complete"
                )

    @property
    def files(self) -> tuple[Path, ...]:
        """Everything that the tensors and their meaning are read from."""
        return (self.path,)

    @property
    def weights(self) -> tuple[Path, ...]:
        """The files that hold the tensors."""
        return self.files

    @abstractmethod
    def raw(self, name: str) -> RawTensor:
        """The bytes of one tensor."""

    @abstractmethod
    def ties(self, names: Iterable[str]) -> Mapping[str, str]:
        """For each of ``names`` that stands for the same weights as an earlier one: that one."""

    @property
    def distinct(self) -> list[str]:
        """What a format must hold that has no two names for one tensor.

        Siblings' right factors are there once, and the manifest tells whose they are as well.
        """
        borrowed = {} if self.manifest is None else self.manifest.borrowed
        return [name for name in self.infos if name not in borrowed]

    @property
    def lent(self) -> dict[str, str]:
        """For each right factor that is not stored under its own name: where a sibling has it."""
        borrowed = {} if self.manifest is None else self.manifest.borrowed
        return {name: other for name, other in borrowed.items() if name in self.shared}

    def nbytes(self, name: str) -> int:
        """Size of one tensor."""
        return self.raw(name).data.nbytes

    def rows(self, name: str, start: int, stop: int) -> RawTensor:
        """Some entries of a tensor along its first axis."""
        whole = self.raw(name)
        step = whole.data.nbytes // whole.shape[0]
        shape = (stop - start, *whole.shape[1:])
        return RawTensor(whole.dtype, shape, whole.data[start * step : stop * step])

    def array(self, name: str, rows: tuple[int, int] | None = None) -> NDArray[np.floating]:
        """The values of one floating tensor, or of some entries along its first axis, exactly."""
        return decode(self.raw(name) if rows is None else self.rows(name, *rows))

    @property
    def bytes(self) -> int:
        """Size of all tensors together, likewise."""
        return sum(self.nbytes(name) for name in self.infos if name not in self.shared)

    @property
    def parameters(self) -> int:
        """Entries of all tensors together; a storage that several names share counts once."""
        shared = self.shared
        return sum(info.size for name, info in self.infos.items() if name not in shared)


class Opened(Checkpoint):
    """What was opened from files: another process is sent their path, and opens them itself."""

    def __reduce__(self) -> tuple[Callable[..., object], tuple[object, ...]]:
        """How it is pickled."""
        return _opened_again, (str(self.path), _size(self.weights))


@lru_cache(maxsize=4)
def _opened_again(path: str, size: int) -> Checkpoint:
    from rmtcli.checkpoint.reader import open_checkpoint

    found = open_checkpoint(path)
    if _size(found.weights) != size:
        raise CheckpointError(f"{path}: is not the same file there and here")
    return found


def _size(files: Iterable[Path]) -> int:
    return sum(path.stat().st_size for path in files)


class Edited(Checkpoint):
    """A checkpoint in which some tensors are replaced.

    Args:
        source: what the changes are laid over; it is not touched.
        edits: for each tensor to go, the tensors that stand in its place.
        manifest: the record of the result.
    """

    def __init__(
        self,
        source: Checkpoint,
        edits: Edits,
        manifest: Manifest | None,
    ) -> None:
        self.source = source
        self.edits = edits
        self.path = source.path
        self.manifest = manifest
        self.metadata = source.metadata
        self.extras = source.extras
        self.opaque = source.opaque
        self.as_stored = source.as_stored
        self.about = source.about
        self.stamps = source.stamps
        self._new = {new: raw for group in edits.values() for new, raw in group.items()}
        self.shared = source.shared.difference(edits).union(
            *(edits[name] for name in source.shared.intersection(edits)),
            set() if manifest is None else manifest.borrowed.keys() & self._new.keys(),
        )
        infos: dict[str, TensorInfo] = {}
        for name, info in source.infos.items():
            if name in edits:
                infos |= {new: TensorInfo(t.shape, t.dtype) for new, t in edits[name].items()}
            else:
                infos[name] = info
        kept = source.infos.keys() - edits.keys()
        size = len(kept) + sum(map(len, edits.values()))
        if len(infos) != size:
            new = Counter([*kept, *(new for group in edits.values() for new in group)])
            raise CheckpointError(
                f"{source.path}: the name '{new.most_common(1)[0][0]}' would be needed twice: one "
                "of two tensors would be lost"
            )
        self.infos = infos

    def raw(self, name: str) -> RawTensor:
        """The new bytes where the tensor is new, the source's where it is not."""
        return self._new[name].read() if name in self._new else self.source.raw(name)

    def nbytes(self, name: str) -> int:
        """Size of one tensor."""
        return self._new[name].nbytes if name in self._new else self.source.nbytes(name)

    def ties(self, names: Iterable[str]) -> Mapping[str, str]:
        """The source's ties among tensors that were not replaced."""
        return self.source.ties(name for name in names if name not in self._new)
