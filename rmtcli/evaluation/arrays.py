"""Arrays of samples in files, under the names of rmtcli or others. Nothing here imports torch."""

from __future__ import annotations

import zipfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.lib import format as npy
from numpy.typing import NDArray

from rmtcli.calibration import files_in
from rmtcli.checkpoint import RawTensor, TensorInfo, decode, open_checkpoint
from rmtcli.checkpoint.dtypes import TYPES
from rmtcli.errors import EvaluationError, MissingFileError, UsageError, first_line
from rmtcli.evaluation.conversion import of_arrays, of_other
from rmtcli.files import ONE_READER

#: Compressed arrays may unpack to this many bytes at any ratio, and to more up to this ratio.
LARGE, RATIO = 256 * 2**20, 100
#: Endings of files that hold arrays.
ENDINGS = (".safetensors", ".npz", ".npy")
#: The names of the arrays of a pair of ``.npy`` files, and of a single one.
PAIR = ("inputs", "targets")


@dataclass(frozen=True, slots=True)
class _Held:
    """An array in a file: how to read its shape and type, and how to read its values."""

    head: Callable[[], tuple[tuple[int, ...], str]]
    read: Callable[[], NDArray[Any]]


def names_in(path: Path) -> tuple[str, ...]:
    """The names of the arrays in a file; none of them is read.

    Raises:
        UsageError: there is no such file, or its ending is unknown.
        EvaluationError: the file is damaged.
    """
    return tuple(_arrays_in(path))


def read_arrays(
    path: Path, inputs: str, targets: str
) -> tuple[NDArray[Any], NDArray[Any] | None, str]:
    """Read the inputs in a file, and the targets if there are any.

    If no array has the name of the inputs, and the file holds one array, or an array and one
    number for each row of it, these are taken.

    Args:
        path: the file.
        inputs: the name of the inputs.
        targets: the name of the targets.

    Returns:
        The inputs, the targets or None, and the names of arrays that are called otherwise.

    Raises:
        UsageError: there is no such file, or its ending is unknown.
        EvaluationError: the file is damaged, or has no such arrays.
    """
    held, names = _arrays_in(path), [inputs, targets]
    if inputs not in held:
        with _reading(path):
            shapes = {name: array.head() for name, array in held.items()}
        names = _only_ones({name: shape for name, (shape, _) in shapes.items()})
        if not names:
            raise EvaluationError(
                f"{path}: has no array named '{inputs}': {of_arrays(path, shapes)}"
            )
    arrays = [_whole(path, name, held[name]) for name in names if name in held]
    taken = "" if names[0] == inputs else " and ".join(f"'{name}'" for name in names)
    return arrays[0], arrays[1] if len(arrays) > 1 else None, taken


def _only_ones(shapes: Mapping[str, tuple[int, ...]]) -> list[str]:
    """The names of the only array, or of the only two: samples, and one number for each."""
    names = sorted(shapes, key=lambda name: -len(shapes[name]))
    if not names or len(shapes[names[0]]) < 2:
        return []
    pair = len(names) == 2 and shapes[names[1]] == shapes[names[0]][:1]
    return names if pair or len(names) == 1 else []


def _whole(path: Path, name: str, held: _Held) -> NDArray[Any]:
    """Read an array as numbers of the machine.

    Raises:
        EvaluationError: it cannot be read, or does not hold numbers.
    """
    with _reading(path), np.errstate(invalid="ignore"):  # a header may give an absurd shape
        array = held.read()
    return _native(array, f"{path}: '{name}'")


def _arrays_in(path: Path) -> dict[str, _Held]:
    """The arrays in a file, by name; only names and headers are read."""
    files = files_in(path)
    for file in files:
        _check_file(file)
    if len(files) > 1 or files[0].suffix.lower() == ".npy":
        return {name: _npy(file) for name, file in zip(PAIR, files, strict=False)}
    if path.suffix.lower() == ".safetensors":
        return _tensors(path)
    with _reading(path), zipfile.ZipFile(path) as archive:
        _check_size(path, archive)
        entries = [name for name in archive.namelist() if name.endswith(".npy")]
        return {name.removesuffix(".npy"): _entry(path, name) for name in entries}


def _check_file(path: Path) -> None:
    """Make sure that a file exists, and is of arrays by its ending.

    Raises:
        UsageError: it does not, or is not.
    """
    if path.suffix.lower() in ENDINGS and path.is_file():
        return
    if not path.exists():
        raise MissingFileError(f"{path}: no such file")
    raise UsageError(f"{path}: {of_other(path)}")


def _npy(path: Path) -> _Held:
    def head() -> tuple[tuple[int, ...], str]:
        with path.open("rb") as file:
            return _header(file)

    return _Held(head, lambda: np.load(path, allow_pickle=False))


def _entry(path: Path, name: str) -> _Held:
    def head() -> tuple[tuple[int, ...], str]:
        with zipfile.ZipFile(path) as archive, archive.open(name) as file:
            return _header(file)

    def read() -> NDArray[Any]:
        with path.open("rb") as file, np.load(file, allow_pickle=False) as arrays:
            return np.asarray(arrays[name.removesuffix(".npy")])

    return _Held(head, read)


def _tensors(path: Path) -> dict[str, _Held]:
    checkpoint = open_checkpoint(path)

    def held(name: str, info: TensorInfo) -> _Held:
        word = TYPES[info.dtype].word
        what = f"{path}: '{name}'"
        return _Held(lambda: (info.shape, word), lambda: _values(checkpoint.raw(name), what))

    return {name: held(name, info) for name, info in checkpoint.infos.items()}


def _header(file: Any) -> tuple[tuple[int, ...], str]:
    """Shape and type of an array, from the head of its file."""
    first = npy.read_magic(file) == (1, 0)
    shape, _, dtype = (npy.read_array_header_1_0 if first else npy.read_array_header_2_0)(file)
    return shape, str(dtype)


@contextmanager
def _reading(path: Path) -> Iterator[None]:
    """Report whatever zipfile and NumPy raise for a damaged file as one line.

    Raises:
        EvaluationError: the file is damaged.
    """
    try:
        with ONE_READER:
            yield
    except EvaluationError:
        raise
    except Exception as error:
        kind = path.suffix.lower() or ".npz"
        raise EvaluationError(f"{path}: not a whole {kind} file ({first_line(error)})") from None


def _check_size(path: Path, archive: zipfile.ZipFile) -> None:
    """Refuse a file that unpacks to far more than its size on disk.

    Raises:
        EvaluationError: it unpacks to more than ordinary compressed data would.
    """
    size = sum(entry.file_size for entry in archive.infolist())
    if size > max(LARGE, RATIO * path.stat().st_size):
        raise EvaluationError(
            f"{path}: {path.stat().st_size:,} bytes would unpack to {size:,}: if you made it, "
            "save it with numpy.savez, which does not compress"
        )


def _native(array: NDArray[Any], what: str) -> NDArray[Any]:
    """Convert numbers to the machine's byte order, and floats to at most 64 bits.

    Raises:
        EvaluationError: the array does not hold numbers.
    """
    if array.dtype.kind not in "biuf":
        raise EvaluationError(f"{what} holds {array.dtype}, not numbers")
    native = array.astype(array.dtype.newbyteorder("="), copy=False)
    return native.astype(np.float64) if native.dtype.kind == "f" and native.itemsize > 8 else native


def _values(raw: RawTensor, what: str) -> NDArray[Any]:
    """Convert a tensor of a safetensors file to an array.

    Raises:
        EvaluationError: NumPy has no such type.
    """
    dtype = TYPES[raw.dtype]
    if dtype.array is None:
        raise EvaluationError(f"{what} is stored as {dtype.word}, which cannot be evaluated on")
    return np.array(decode(raw))
