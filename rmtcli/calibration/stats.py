"""Files of moments, so that a network is calibrated once and compressed many times."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from safetensors.numpy import save

from rmtcli.arrays import FloatArray
from rmtcli.calibration.moments import ByLayer, Moments
from rmtcli.checkpoint import open_checkpoint
from rmtcli.errors import CheckpointError
from rmtcli.files import write_file
from rmtcli.keep import Untouched

#: Key of the file's metadata that holds a record of the contents.
KEY = "rmtcli_statistics"
#: Version of the record's layout.
VERSION = 2


@dataclass(frozen=True, slots=True)
class Origin:
    """The checkpoint and the data that moments were taken from.

    Attributes:
        checkpoint: sha256 of the checkpoint file.
        data: sha256 of the data file.
        gradients: whether output gradients were collected.
        network: the network that was run, in words.
    """

    checkpoint: str
    data: str
    gradients: bool
    network: str


class _Store:
    """The arrays of a file; one that several layers share is stored once."""

    def __init__(self) -> None:
        self.arrays: dict[str, FloatArray] = {}
        self._names: dict[int, str] = {}

    def put(self, moments: Moments) -> dict[str, Any]:
        """Store the arrays of moments; return the number of rows, and the arrays' names."""
        kinds = ("mean", "second", "gradient")
        names = {kind: self._put(kind, getattr(moments, kind)) for kind in kinds}
        return {"rows": moments.rows, **names}

    def _put(self, kind: str, array: FloatArray | None) -> str | None:
        if array is None:
            return None
        if id(array) not in self._names:
            self._names[id(array)] = f"{kind}.{len(self._names)}"
            self.arrays[self._names[id(array)]] = np.ascontiguousarray(array)
        return self._names[id(array)]


def write_stats(path: Path, moments: ByLayer[Moments], origin: Origin) -> None:
    """Write moments as safetensors; arrays that layers share are stored once.

    Args:
        path: file to write; the caller has checked that it may be written.
        moments: moments by layer name, and why other layers have none.
        origin: the checkpoint and the data that they were taken from.
    """
    store = _Store()
    layers = {
        name: store.put(m)
        | {
            "samples": m.samples,
            "of_outputs": m.of_outputs,
            "independent": m.independent,
            "independent_gradients": m.independent_gradients,
            "fold": m.fold and store.put(m.fold),
        }
        for name, m in moments.items()
    }
    record = {
        "version": VERSION,
        "checkpoint": origin.checkpoint,
        "data": origin.data,
        "gradients": origin.gradients,
        "network": origin.network,
        "layers": layers,
        "missing": {name: reason.name for name, reason in moments.missing.items()},
    }
    content = save(store.arrays, {KEY: json.dumps(record)})
    write_file(path, lambda file: file.write(content))


def _count(value: Any) -> float | None:
    """A number of samples in the record.

    Raises:
        ValueError: it is not a positive number.
    """
    if value is None:
        return None
    if not 0 < (number := float(value)) < math.inf:
        raise ValueError(value)
    return number


def _fold(item: Any, arrays: Mapping[str, FloatArray], whole: Moments) -> Moments | None:
    """The moments of samples that were kept apart, from the record of one layer.

    Raises:
        ValueError: they do not fit those of all samples.
    """
    known = item.get("fold")
    if known is None:
        return None
    gradient = None if known["gradient"] is None else arrays[known["gradient"]]
    mean, second = arrays[known["mean"]], arrays[known["second"]]
    fold = Moments(known["rows"], 0, mean, second, gradient, whole.of_outputs)
    if fold.shapes != whole.shapes or not 0 < fold.rows <= whole.rows:
        raise ValueError(known)
    return fold


def read_stats(path: Path) -> tuple[ByLayer[Moments], Origin]:
    """Read a file that :func:`write_stats` wrote.

    Raises:
        UsageError: the file does not exist, or is not a ``.safetensors`` file.
        CheckpointError: the file is damaged, or contains no moments.
    """
    file = open_checkpoint(path)
    try:
        record: Any = json.loads(file.metadata[KEY])
        if record["version"] != VERSION:
            raise CheckpointError(f"{path}: statistics of another version: collect them again")
        arrays = {name: file.array(name).astype(np.float64) for name in file.infos}
        moments = {
            name: Moments(
                item["rows"],
                item["samples"],
                arrays[item["mean"]],
                arrays[item["second"]],
                None if item["gradient"] is None else arrays[item["gradient"]],
                item["of_outputs"],
                # Older files do not know them.
                _count(item.get("independent")),
                _count(item.get("independent_gradients")),
            )
            for name, item in record["layers"].items()
        }
        for name, item in record["layers"].items():
            fold = _fold(item, arrays, moments[name])
            moments[name] = replace(moments[name], fold=fold)
        missing = {name: Untouched[reason] for name, reason in record["missing"].items()}
        origin = Origin(*(record[key] for key in Origin.__slots__))
    # The record may be JSON of any form.
    except (KeyError, TypeError, ValueError, AttributeError, RecursionError):
        raise CheckpointError(
            f"{path}: contains no calibration statistics written by rmtcli"
        ) from None
    return ByLayer(moments, missing), origin
