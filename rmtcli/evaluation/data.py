"""Arrays to evaluate on."""

from __future__ import annotations

import zipfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from rmtcli.checkpoint import decode, open_checkpoint
from rmtcli.checkpoint.dtypes import FLOATS
from rmtcli.errors import EvaluationError, UsageError


@dataclass(frozen=True, slots=True, eq=False)
class Samples:
    """Held-out samples.

    Attributes:
        path: the file they came from.
        inputs: shape (samples, …), floating, or integers for a model that embeds them.
        targets: shape (samples,), class numbers; None when the file has none.
        scaled: whether bytes were divided by 255.
    """

    path: Path
    inputs: NDArray[Any]
    targets: NDArray[np.int64] | None
    scaled: bool


def read_samples(path: str | Path) -> Samples:
    """Read ``inputs`` and, if there, ``targets`` from an ``.npz`` or ``.safetensors`` file.

    Inputs stored as bytes (uint8) are taken for images and divided by 255, as
    ``torchvision.transforms.ToTensor`` does.

    Raises:
        UsageError: no such file, or another ending.
        EvaluationError: the file is damaged, has no ``inputs``, or its arrays do not fit together.
    """
    path = Path(path)
    if not path.is_file():
        raise UsageError(f"{path}: no such file")
    arrays = _read_arrays(path, ("inputs", "targets"))
    if "inputs" not in arrays:
        raise EvaluationError(f"{path}: has no array named 'inputs'")
    inputs, targets = arrays["inputs"], arrays.get("targets")
    if inputs.ndim < 2 or len(inputs) == 0:
        raise EvaluationError(
            f"{path}: 'inputs' has shape {inputs.shape}: it must be (samples, features…)"
        )
    if targets is not None and (
        targets.shape != inputs.shape[:1] or not np.issubdtype(targets.dtype, np.integer)
    ):
        raise EvaluationError(
            f"{path}: 'targets' must be {len(inputs)} class numbers (integers), "
            f"not {targets.dtype} of shape {targets.shape}"
        )
    scaled = inputs.dtype == np.uint8
    if scaled:
        inputs = inputs.astype(np.float32) / 255
    if np.issubdtype(inputs.dtype, np.floating) and not np.isfinite(inputs).all():
        raise EvaluationError(f"{path}: 'inputs' holds values that are NaN or infinite")
    return Samples(path, inputs, None if targets is None else targets.astype(np.int64), scaled)


def _read_arrays(path: Path, names: tuple[str, ...]) -> dict[str, NDArray[Any]]:
    if path.suffix == ".npz":
        try:
            with path.open("rb") as handle, np.load(handle, allow_pickle=False) as file:
                return {name: file[name] for name in names if name in file}
        except (ValueError, EOFError, zipfile.BadZipFile) as error:
            raise EvaluationError(f"{path}: not a whole .npz file ({error})") from None
    if path.suffix == ".safetensors":
        file = open_checkpoint(path)
        return {name: _values(file.raw(name)) for name in names if name in file.infos}
    raise UsageError(f"{path}: data must be an .npz or a .safetensors file")


def _values(raw: Any) -> NDArray[Any]:
    if raw.dtype in FLOATS:
        return decode(raw)
    kinds = {"U8": "<u1", "I8": "<i1", "I16": "<i2", "I32": "<i4", "I64": "<i8"}
    if raw.dtype not in kinds:
        raise EvaluationError(f"data of type {raw.dtype} cannot be evaluated on")
    return np.asarray(raw.data.view(kinds[raw.dtype]).reshape(raw.shape))
