"""The interface of every checkpoint, whatever its format."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from rmtcli.checkpoint.dtypes import TYPES, RawTensor, decode
from rmtcli.checkpoint.manifest import Manifest
from rmtcli.checkpoint.packing import Packed
from rmtcli.errors import CheckpointError, MissingFileError, UsageError
from rmtcli.files import as_path, is_remote, reaching
from rmtcli.options import option

if TYPE_CHECKING:
    from torch import nn

#: Size, modification time in nanoseconds and inode of a file: they tell whether it was changed.
Stamp = tuple[int, int, int]

#: What the names of networks in memory end in, where a file has its path.
IN_MEMORY = " (in memory)"
#: Bytes at the beginning of two tensors that are compared before whole tensors are.
HEAD_BYTES = 4096


def stamp_of(path: Path) -> Stamp:
    """The stamp of a file; a remote file's has only its size, and zeros."""
    status = path.stat()
    if is_remote(path):
        return status.st_size, 0, 0
    return status.st_size, status.st_mtime_ns, status.st_ino


@dataclass(frozen=True, slots=True)
class TensorInfo:
    """Shape and type of a stored tensor, known without reading it."""

    shape: tuple[int, ...]
    dtype: str

    @property
    def size(self) -> int:
        """Number of entries."""
        return math.prod(self.shape)

    @property
    def counts(self) -> bool:
        """Whether its entries are parameters: whole numbers and truth values are not trained."""
        return TYPES[self.dtype].trained


@dataclass(frozen=True, slots=True)
class About:
    """Facts about a network that its tensors do not tell, from the configuration beside them.

    Attributes:
        transposed: last parts of the names of modules whose weights are stored as in × out.
        vocabularies: numbers of rows by which a matrix is an embedding or an output head.
        quantized: the method with which another tool has quantised the weights, or empty.
        linear_only: whether the program that loads the directory supports factors of linear layers
            and tables only, and ties the names that share a table's storage itself.
        unmultiplied: names of floating matrices that are not the weights of linear layers; any
            other matrix is one, stored as out × in. None where no graph tells.
        activation: the activation between the linear layers of a plain chain, or empty where a
            graph tells that the network is none; None where no graph tells.
    """

    transposed: frozenset[str] = frozenset()
    vocabularies: frozenset[int] = frozenset()
    quantized: str = ""
    linear_only: bool = False
    unmultiplied: frozenset[str] | None = None
    activation: str | None = None


class Checkpoint(ABC):
    """Named tensors in a file, a directory or memory.

    Two names are *tied* if they stand for the same weights. A tied name is an *alias* where its
    tensor takes no room of its own in the file.

    Attributes:
        path: the file or directory; of tensors in memory, the name of the network's class.
        form: name of the format in messages.
        infos: shape and type of each tensor; in the model's order where the format keeps one.
        manifest: rmtcli's own record, if the file has one.
        metadata: the file's text metadata, by key.
        extras: names of objects beside the tensors, such as an optimizer's state.
        opaque: names of entries among the tensors that only the file's own format can hold.
        opaque_bytes: bytes of the tensors among these entries.
        as_stored: whether the order of ``infos`` is the network's own.
        aliases: for each name that takes no room in the file, the name whose tensor it shares.
        about: facts that the tensors do not tell.
        remarks: what was read that a user may not expect, as sentences for a report.
        stamps: size, modification time and inode of each file when it was opened.
        key: which of a file's state dicts this is, if the user named one.
        is_directory: whether it is a Hugging Face directory, perhaps edited.
        module: the torch module that tensors in memory are of; None for files.
        graph: the graph in which an ONNX file holds its tensors; None for other formats.
    """

    path: Path
    form: str = "in memory"
    infos: Mapping[str, TensorInfo]
    manifest: Manifest | None = None
    metadata: Mapping[str, str] = MappingProxyType({})
    extras: tuple[str, ...] = ()
    opaque: tuple[str, ...] = ()
    opaque_bytes: int = 0
    aliases: Mapping[str, str] = MappingProxyType({})
    as_stored: bool = False
    about: About = About()
    remarks: tuple[str, ...] = ()
    stamps: Mapping[Path, Stamp] = MappingProxyType({})
    key: str | None = None
    is_directory: bool = False
    module: nn.Module | None = None
    graph: Any = None

    def adopt(self, record: Manifest) -> None:
        """Take a record, which may have been kept elsewhere: of factors that are still shared."""
        self.manifest = record.keep_tied(self.ties(self.infos))

    def check_unchanged(self) -> None:
        """Check that no file was changed since it was opened.

        Tensors that were read early and late would else be of two checkpoints. A file that was
        deleted in the meantime is accepted: everything needed from it has been read.

        Raises:
            CheckpointError: a file was written to or replaced.
        """
        for path, stamp in self.stamps.items():
            if path.exists() and stamp_of(path) != stamp:
                raise CheckpointError(
                    f"{path}: was changed while it was read, so nothing was written: run again "
                    "when it is complete"
                )

    @property
    def files(self) -> tuple[Path, ...]:
        """All files from which the tensors and their meaning are read."""
        return (self.path,)

    @property
    def weights(self) -> tuple[Path, ...]:
        """The files that hold the tensors."""
        return self.files

    @abstractmethod
    def raw(self, name: str) -> RawTensor:
        """The bytes of one tensor."""

    def packed(self, name: str) -> Packed | None:
        """The parts of a tensor that the file holds in few bits; None for any other."""
        return None

    @abstractmethod
    def ties(self, names: Iterable[str]) -> Mapping[str, str]:
        """For each of ``names`` that is tied to an earlier one of them: that earlier name."""

    @property
    def distinct(self) -> list[str]:
        """Names of the tensors that a format without aliases has to store."""
        return [name for name in self.infos if name not in self.aliases]

    def nbytes(self, name: str) -> int:
        """Bytes of one tensor."""
        return self.raw(name).data.nbytes

    def head(self, name: str) -> bytes:
        """The first :data:`HEAD_BYTES` bytes of one tensor, or all of a smaller one."""
        return self.raw(name).data[:HEAD_BYTES].tobytes()

    def rows(self, name: str, start: int, stop: int) -> RawTensor:
        """The entries ``start`` to ``stop`` of a tensor along its first axis."""
        whole = self.raw(name)
        step = whole.data.nbytes // whole.shape[0]
        shape = (stop - start, *whole.shape[1:])
        return RawTensor(whole.dtype, shape, whole.data[start * step : stop * step])

    def pieces(self, name: str) -> Iterator[RawTensor]:
        """A tensor in pieces along its first axis; memory need not hold all of it at once."""
        yield self.raw(name)

    def array(self, name: str, rows: tuple[int, int] | None = None) -> NDArray[np.floating]:
        """The exact values of a floating tensor, or of some entries along its first axis."""
        return decode(self.raw(name) if rows is None else self.rows(name, *rows))

    @property
    def bytes(self) -> int:
        """Total bytes of all tensors; storage shared by several names counts once."""
        return self.opaque_bytes + sum(map(self.nbytes, self.distinct))

    @property
    def parameters(self) -> int:
        """Entries of all tensors but whole numbers and masks; shared storage counts once."""
        own = (self.infos[name] for name in self.distinct)
        return sum(info.size for info in own if info.counts)


class FileCheckpoint(Checkpoint):
    """A checkpoint that was opened from files.

    Pickled for another process, it is its path; the process opens the files itself, once.

    Args:
        path: the file or directory.
        first: the file that is read first, where ``path`` is a directory.
    """

    def __init__(self, path: Path, first: Path | None = None) -> None:
        self.path = path
        self.stamps: dict[Path, Stamp] = {first or path: stamp_of(first or path)}

    def __reduce__(self) -> tuple[Callable[..., object], tuple[object, ...]]:
        return _reopen, (type(self), str(self.path), _total_size(self.weights), self.key)


@lru_cache(maxsize=4)
def _reopen(
    kind: Callable[..., Checkpoint], name: str, size: int, key: str | None = None
) -> Checkpoint:
    """Open a checkpoint that another process has opened.

    Args:
        kind: the class that opens the path.
        name: the path or URL.
        size: bytes of the files with the tensors.
        key: which of the file's state dicts it is, if the user named one.

    Raises:
        UsageError: the path does not exist here.
        CheckpointError: the files have another size here.
    """
    path = as_path(name)
    with reaching(path):
        if not path.exists():
            raise MissingFileError(f"{path}: no such file")
        checkpoint = kind(path) if key is None else kind(path, key)
        if _total_size(checkpoint.weights) != size:
            raise CheckpointError(f"{path}: is not the same file there and here")
    return checkpoint


def one_network(path: Path, form: str) -> UsageError:
    """The error for a key where there is nothing to choose."""
    return UsageError(f"{path}: a {form} holds one network: leave out {option('key')}")


def _total_size(files: Iterable[Path]) -> int:
    return sum(path.stat().st_size for path in files)
