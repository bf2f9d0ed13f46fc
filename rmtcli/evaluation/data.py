"""Read arrays of samples to evaluate on."""

from __future__ import annotations

import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from rmtcli.calibration import Data, FileShare, GivenInputs
from rmtcli.checkpoint import RawTensor, decode, open_checkpoint
from rmtcli.checkpoint.dtypes import TYPES
from rmtcli.errors import EvaluationError, MissingFileError, UsageError, first_line

#: Compressed arrays may unpack to this many bytes at any ratio, and to more up to this ratio.
LARGE, RATIO = 256 * 2**20, 100
#: Endings of files that hold text.
TEXTS = (".txt", ".jsonl")
#: The target at a position of a text that has no next token.
NO_TARGET = -1


@dataclass(frozen=True, slots=True, eq=False)
class Samples:
    """Held-out samples.

    Attributes:
        path: the file that holds them.
        inputs: shape (samples, …), floating point, or integers for a model that embeds them.
        targets: class numbers, shape (samples,), or labels or numbers, shape (samples, width); None
            if the file has none.
        scaled: whether the inputs were stored as bytes and divided by 255.
        next_tokens: whether the targets are those of a language model, shape (samples, positions),
            with :data:`NO_TARGET` where a text has ended.
    """

    path: Path
    inputs: NDArray[Any]
    targets: NDArray[Any] | None
    scaled: bool
    next_tokens: bool = False

    def some(self, count: int) -> Samples:
        """At most so many samples, evenly spread over all of them."""
        rows = np.unique(np.linspace(0, len(self.inputs) - 1, count).round().astype(int))
        return self._rows(rows)

    def split(self, *shares: float) -> list[Samples]:
        """Split the samples at random, with a fixed seed, into disjoint parts of these shares."""
        order = np.random.default_rng(0).permutation(len(self.inputs))
        ends = np.round(np.cumsum(shares) / sum(shares) * len(order)).astype(int)[:-1]
        return [self._rows(rows) for rows in map(np.sort, np.split(order, ends))]

    def _rows(self, rows: NDArray[np.intp]) -> Samples:
        targets = None if self.targets is None else self.targets[rows]
        return replace(self, inputs=self.inputs[rows], targets=targets)


def next_of(targets: NDArray[Any]) -> NDArray[np.int64]:
    """The next tokens of all positions that have one, one after another."""
    following: NDArray[np.int64] = targets[targets != NO_TARGET]
    return following


def has_training_part(data: Data) -> bool:
    """Whether data hold ``train_inputs`` beside the held-out samples, as a file may.

    Only the names of its arrays are read: from the directory of the zip file, or the header of the
    safetensors file.

    Raises:
        UsageError: there is no such file, or its ending is unknown.
        EvaluationError: the file is damaged.
    """
    if isinstance(data, GivenInputs | FileShare):
        return False
    path = Path(data)
    if path.suffix.lower() in TEXTS:
        return False
    if _ending(path) == ".safetensors":
        return "train_inputs" in open_checkpoint(path).infos
    with _unzipping(path), zipfile.ZipFile(path) as archive:
        _check_size(path, archive)
        return any(name.removesuffix(".npy") == "train_inputs" for name in archive.namelist())


def read_samples(path: str | Path, part: str = "") -> Samples:
    """Read ``inputs``, and ``targets`` if there are any, from an ``.npz`` or ``.safetensors`` file.

    With ``part="train_"`` the arrays are ``train_inputs`` and ``train_targets``.

    Inputs stored as bytes (uint8) are treated as images and divided by 255, as
    ``torchvision.transforms.ToTensor`` does.

    Raises:
        UsageError: there is no such file, or its ending is unknown.
        EvaluationError: the file is damaged, has no ``inputs``, or its arrays do not match.
    """
    path = Path(path)
    name, labels = f"{part}inputs", f"{part}targets"
    arrays = _read_arrays(path, (name, labels))
    if name not in arrays:
        raise EvaluationError(f"{path}: has no array named '{name}'")
    inputs, targets = arrays[name], arrays.get(labels)
    if inputs.ndim < 2 or len(inputs) == 0:
        raise EvaluationError(
            f"{path}: '{name}' has shape {inputs.shape}: it must be (samples, features…)"
        )
    if targets is not None:
        check_targets(f"{path}: '{labels}'", targets, len(inputs))
    scaled = inputs.dtype == np.uint8
    if scaled:
        inputs = inputs.astype(np.float32) / 255
    if np.issubdtype(inputs.dtype, np.floating) and not np.isfinite(inputs).all():
        raise EvaluationError(f"{path}: '{name}' holds values that are NaN or infinite")
    return Samples(path, inputs, targets, scaled)


def check_targets(what: str, targets: NDArray[Any], samples: int) -> None:
    """Make sure that targets are one finite number, or one row of them, per sample.

    Raises:
        EvaluationError: they are not.
    """
    if targets.ndim not in (1, 2) or len(targets) != samples or targets.size == 0:
        raise EvaluationError(
            f"{what} has shape {targets.shape}: it must have one number, or one row, for each of "
            f"{samples} samples"
        )
    if targets.dtype.kind == "f" and not np.isfinite(targets).all():
        raise EvaluationError(f"{what} holds values that are NaN or infinite")


def _ending(path: Path) -> str:
    """The ending of an existing file of arrays: ``.safetensors`` or ``.npz``.

    Raises:
        UsageError: there is no such file, or its ending is unknown.
    """
    if path.is_dir():
        raise UsageError(f"{path}: is a directory: name a file of arrays")
    if not path.is_file():
        raise MissingFileError(f"{path}: no such file")
    ending = path.suffix.lower()
    if ending not in (".safetensors", ".npz"):
        raise UsageError(f"{path}: data must be an .npz or a .safetensors file")
    return ending


@contextmanager
def _unzipping(path: Path) -> Iterator[None]:
    """Report whatever zipfile and NumPy raise for a damaged file as one line.

    Raises:
        EvaluationError: the file is damaged.
    """
    try:
        yield
    except EvaluationError:
        raise
    except Exception as error:
        raise EvaluationError(f"{path}: not a whole .npz file ({first_line(error)})") from None


def _read_arrays(path: Path, names: tuple[str, ...]) -> dict[str, NDArray[Any]]:
    """The arrays of these names that a file holds."""
    if _ending(path) == ".safetensors":
        file = open_checkpoint(path)
        return {n: _values(file.raw(n), f"{path}: '{n}'") for n in names if n in file.infos}
    arrays = {}
    with _unzipping(path), np.errstate(invalid="ignore"):  # a header may give an absurd shape
        with zipfile.ZipFile(path) as archive:
            _check_size(path, archive)
        with path.open("rb") as handle, np.load(handle, allow_pickle=False) as file:
            arrays = {name: np.asarray(file[name]) for name in names if name in file}
    return {name: _native(array, f"{path}: '{name}'") for name, array in arrays.items()}


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
