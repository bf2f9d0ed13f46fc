"""Read arrays of samples to evaluate on."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from rmtcli.calibration import Data, FileShare, GivenInputs
from rmtcli.errors import EvaluationError
from rmtcli.evaluation.arrays import ENDINGS, names_in, read_arrays

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
        taken: the names of the arrays in the file, if they are other ones.
    """

    path: Path
    inputs: NDArray[Any]
    targets: NDArray[Any] | None
    scaled: bool
    next_tokens: bool = False
    taken: str = ""

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
    return path.suffix.lower() in ENDINGS and "train_inputs" in names_in(path)


def read_samples(path: str | Path, part: str = "") -> Samples:
    """Read ``inputs``, and ``targets`` if there are any, from a file of arrays.

    It is an ``.npz`` or ``.safetensors`` file; or an ``.npy`` file of inputs, or two of inputs and
    targets, as ``x.npy,y.npy``. A file with just one array, or with samples and one number for
    each, may have other names for them. With ``part="train_"`` the arrays are ``train_inputs`` and
    ``train_targets``.

    Inputs stored as bytes (uint8) are treated as images and divided by 255, as
    ``torchvision.transforms.ToTensor`` does.

    Raises:
        UsageError: there is no such file, or its ending is unknown.
        EvaluationError: the file is damaged, has no ``inputs``, or its arrays do not match.
    """
    path = Path(path)
    name, labels = f"{part}inputs", f"{part}targets"
    inputs, targets, taken = read_arrays(path, name, labels)
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
    return Samples(path, inputs, targets, scaled, taken=taken)


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
