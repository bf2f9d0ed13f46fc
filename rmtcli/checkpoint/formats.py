"""The table of checkpoint formats, and opening a file by it.

Another package adds a format by an entry point in the group ``rmtcli.formats``: its name is the
format's name, its value a :class:`Format`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from dataclasses import dataclass
from functools import cache
from importlib import import_module
from importlib.metadata import entry_points
from pathlib import Path
from typing import Any

from rmtcli.checkpoint.base import FileCheckpoint, one_network
from rmtcli.checkpoint.dtypes import TYPES
from rmtcli.checkpoint.recognise import (
    HEAD,
    is_exported,
    is_gguf,
    is_onnx,
    is_safetensors,
    is_torch,
    other_kind,
)
from rmtcli.checkpoint.unpacked import unpacked
from rmtcli.errors import CheckpointError, MissingFileError, UsageError

#: Characters in a tensor's name. Searches for words in it take time that grows with their square.
LONGEST_NAME = 10_000
#: What to do with a folder of a distributed checkpoint, and with a file in it.
DISTRIBUTED = (
    "a distributed checkpoint of torch, in parts: write one file with 'python -m "
    "torch.distributed.checkpoint.format_utils dcp_to_torch {} FILE.pt'"
)


@dataclass(frozen=True, slots=True)
class Deferred:
    """A function that is imported when it is first called, so that unused formats cost nothing.

    Attributes:
        target: the module and the function's name, as ``module:name``.
    """

    target: str

    def __call__(self, *args: Any, **options: Any) -> Any:
        """Import the function and call it."""
        module, _, name = self.target.partition(":")
        return getattr(import_module(module), name)(*args, **options)


@dataclass(frozen=True, slots=True)
class Format:
    """A file format of checkpoints.

    Attributes:
        name: the name in messages.
        endings: file name endings, in lower case with their dots.
        open: opens a file, without reading the tensors if the format allows. If ``keeps_extras``,
            it takes a key as well, which says which of several state dicts is meant.
        write: writes a checkpoint to an open binary file; None for a format that is only read, or
            that has ``stage``.
        stage: writes a checkpoint under a temporary name, as ``staged_file`` does (``files/``),
            for a format that may need several files.
        keeps_metadata: whether a written file holds the source's text metadata.
        keeps_graph: whether a file holds the network's graph as well, so that only a checkpoint
            with a graph can be written.
        keeps_extras: whether a written file holds the objects beside the source's tensors.
        recognises: whether a file, given with its first bytes, is of this format under any name;
            None for a format that only the ending tells.
    """

    name: str
    endings: tuple[str, ...]
    open: Callable[..., FileCheckpoint]
    write: Callable[..., None] | None = None
    stage: Callable[..., AbstractContextManager[Path]] | None = None
    keeps_metadata: bool = False
    keeps_graph: bool = False
    keeps_extras: bool = False
    recognises: Callable[[Path, bytes], bool] | None = None

    @property
    def writes(self) -> bool:
        """Whether files of this format can be written."""
        return self.write is not None or self.stage is not None


_TORCH = "rmtcli.checkpoint.torch"
_FORMATS = (
    Format(
        "safetensors",
        (".safetensors",),
        Deferred("rmtcli.checkpoint.safetensors:SafetensorsFile"),
        Deferred("rmtcli.checkpoint.safetensors:write_safetensors"),
        keeps_metadata=True,
        recognises=is_safetensors,
    ),
    Format(
        "torch",
        (".pt", ".pth", ".bin", ".ckpt"),
        Deferred(f"{_TORCH}.open:open_torch"),
        Deferred(f"{_TORCH}.write:write_torch"),
        keeps_extras=True,
        recognises=is_torch,
    ),
    Format(
        "exported",
        (".pt2",),
        Deferred(f"{_TORCH}.exported:ExportedFile"),
        recognises=is_exported,
    ),
    Format(
        "ONNX",
        (".onnx",),
        Deferred("rmtcli.checkpoint.onnx.open:open_onnx"),
        stage=Deferred("rmtcli.checkpoint.onnx.write:staged_onnx"),
        keeps_metadata=True,
        keeps_graph=True,
        recognises=is_onnx,
    ),
    Format(
        "GGUF",
        (".gguf",),
        Deferred("rmtcli.checkpoint.gguf.file:GgufFile"),
        recognises=is_gguf,
    ),
)

#: Hugging Face directories. They are told by their contents, so that no ending names them.
DIRECTORY = Format(
    "directory",
    (),
    Deferred("rmtcli.checkpoint.huggingface.read:HuggingFaceDirectory"),
    Deferred("rmtcli.checkpoint.huggingface.write:write_directory"),
    keeps_metadata=True,
)


@cache
def _added() -> tuple[Format, ...]:
    """The formats of other packages."""
    points = sorted(entry_points(group="rmtcli.formats"), key=lambda point: point.name)
    return tuple(point.load() for point in points)


def _formats() -> Iterator[Format]:
    """All formats; those of other packages are loaded where no format before them is met."""
    yield from _FORMATS
    yield from _added()


def endings() -> tuple[str, ...]:
    """All file name endings of checkpoints."""
    return tuple(dict.fromkeys(ending for item in _formats() for ending in item.endings))


def find_format(path: Path) -> Format | None:
    """The format that a file's ending names; None for any other ending."""
    ending = path.suffix.lower()
    return next((item for item in _formats() if ending in item.endings), None)


def format_by_ending(path: Path) -> Format:
    """The format that a file's ending names.

    Raises:
        UsageError: no format has the ending.
    """
    file_format = find_format(path)
    if file_format is None:
        known = ", ".join(endings())
        raise UsageError(f"{path}: not a checkpoint by its name: the ending must be one of {known}")
    return file_format


def format_by_content(path: Path) -> Format:
    """The format of an existing file: by its first bytes, and only then by its ending.

    Raises:
        UsageError: neither says what it is.
        CheckpointError: it is of another kind.
    """
    named = find_format(path)
    if named is not None and named.recognises is None:
        return named
    with path.open("rb") as file:
        head = file.read(HEAD)
    for item in _formats():
        if item.recognises is not None and item.recognises(path, head):
            return item
    if (words := other_kind(path, head)) is not None:
        raise CheckpointError(f"{path}: {words}")
    return format_by_ending(path)


def open_file(
    path: Path, file_format: Format | None = None, key: str | None = None
) -> FileCheckpoint:
    """Open a checkpoint file.

    Args:
        path: the file.
        file_format: its format; None for the one that its first bytes or its ending tell.
        key: which state dict, where the file holds several.

    Raises:
        UsageError: the file does not exist, is not a regular file, or is of no known kind; no
            state dict is under ``key``, or there are several and none is named.
        CheckpointError: the file is empty, damaged, or holds more than tensors and plain values.
    """
    if not path.exists():
        raise MissingFileError(f"{path}: no such file")
    if path.suffix == ".distcp":
        raise UsageError(f"{path}: {DISTRIBUTED.format(path.parent)}")
    if not path.is_file():
        raise UsageError(f"{path}: a directory, a pipe or a device: name a file")
    if path.stat().st_size == 0:
        raise CheckpointError(f"{path}: the file is empty")
    file_format = file_format or format_by_content(path)
    if key is not None and not file_format.keeps_extras:
        raise one_network(path, f"{file_format.name} file")
    checkpoint = file_format.open(path) if key is None else file_format.open(path, key)
    _check_infos(checkpoint)
    return unpacked(checkpoint)


def _check_infos(checkpoint: FileCheckpoint) -> None:
    """Refuse names and types that the rest of rmtcli does not expect.

    Raises:
        CheckpointError: a name is too long, or a type unknown, as another package's format may
            have it.
    """
    longest = max(map(len, checkpoint.infos), default=0)
    if longest > LONGEST_NAME:
        raise CheckpointError(
            f"{checkpoint.path}: a tensor's name has {longest:,} characters: at most "
            f"{LONGEST_NAME:,} are read"
        )
    for name, info in checkpoint.infos.items():
        if info.dtype not in TYPES:
            raise CheckpointError(
                f"{checkpoint.path}: '{name}' is of type {info.dtype}, which rmtcli does not know"
            )
