"""What every checkpoint offers, whatever its format, and a checkpoint with changes laid over it."""

from __future__ import annotations

import json
import math
from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from rmtcli.checkpoint.dtypes import RawTensor, decode

#: Version of the manifest's layout.
MANIFEST_VERSION = 1


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
        version: layout of this record.
    """

    rmtcli: str
    source: str
    source_sha256: str
    keep: str
    edge: str
    factored: Mapping[str, int]
    version: int = MANIFEST_VERSION

    def to_json(self) -> str:
        """One line of JSON."""
        return json.dumps(asdict(self), sort_keys=True)

    @staticmethod
    def from_json(text: str) -> Manifest | None:
        """The manifest that ``text`` holds; None where it is not one this version can read."""
        try:
            fields: Any = json.loads(text)
            manifest = Manifest(**fields)
            ranks = all(type(rank) is int for rank in manifest.factored.values())
        except (ValueError, TypeError, AttributeError):
            return None
        return manifest if ranks and manifest.version == MANIFEST_VERSION else None


class Checkpoint(ABC):
    """Named tensors in a file.

    Attributes:
        path: the file.
        infos: shape and type of each tensor; in the model's order where the format keeps one.
        manifest: rmtcli's own record, if the file has one.
        metadata: the file's own notes, text by name.
        extras: names of what stands beside the tensors, such as an optimizer's state.
        opaque: names of entries among the tensors that only the file's own format can hold.
        as_stored: whether the order of ``infos`` is the network's own.
        shared: names that take no room in the file, because an earlier one has the same storage.
    """

    path: Path
    infos: Mapping[str, TensorInfo]
    manifest: Manifest | None
    metadata: Mapping[str, str]
    extras: tuple[str, ...]
    opaque: tuple[str, ...] = ()
    shared: frozenset[str] = frozenset()
    as_stored: bool = False

    @abstractmethod
    def raw(self, name: str) -> RawTensor:
        """The bytes of one tensor."""

    @abstractmethod
    def ties(self, names: Iterable[str]) -> Mapping[str, str]:
        """For each of ``names`` that stands for the same weights as an earlier one: that one."""

    def array(self, name: str) -> NDArray[np.floating]:
        """The values of one floating tensor, exactly."""
        return decode(self.raw(name))

    @property
    def bytes(self) -> int:
        """Size of all tensors together, likewise."""
        return sum(self.raw(n).data.nbytes for n in self.infos if n not in self.shared)

    @property
    def parameters(self) -> int:
        """Entries of all tensors together; a storage that several names share counts once."""
        shared = self.shared
        return sum(info.size for name, info in self.infos.items() if name not in shared)


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
        edits: Mapping[str, Mapping[str, RawTensor]],
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
        self.shared = source.shared.difference(edits).union(
            *(edits[name] for name in source.shared.intersection(edits))
        )
        infos: dict[str, TensorInfo] = {}
        for name, info in source.infos.items():
            if name in edits:
                infos |= {new: TensorInfo(t.shape, t.dtype) for new, t in edits[name].items()}
            else:
                infos[name] = info
        self.infos = infos
        self._new = {new: raw for group in edits.values() for new, raw in group.items()}

    def raw(self, name: str) -> RawTensor:
        """The new bytes where the tensor is new, the source's where it is not."""
        return self._new[name] if name in self._new else self.source.raw(name)

    def ties(self, names: Iterable[str]) -> Mapping[str, str]:
        """The source's ties among tensors that were not replaced."""
        return self.source.ties(name for name in names if name not in self._new)
