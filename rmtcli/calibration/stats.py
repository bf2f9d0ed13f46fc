"""Files of moments, so that a network is calibrated once and compressed many times."""

from __future__ import annotations

import json
import math
from dataclasses import dataclass
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


def write_stats(path: Path, moments: ByLayer[Moments], origin: Origin) -> None:
    """Write moments as safetensors; arrays that layers share are stored once.

    Args:
        path: file to write; the caller has checked that it may be written.
        moments: moments by layer name, and why other layers have none.
        origin: the checkpoint and the data that they were taken from.
    """
    arrays: dict[str, FloatArray] = {}
    names: dict[int, str] = {}

    def put(kind: str, array: FloatArray | None) -> str | None:
        """Store an array, unless it is stored already, and return its name."""
        if array is None:
            return None
        if id(array) not in names:
            names[id(array)] = f"{kind}.{len(names)}"
            arrays[names[id(array)]] = np.ascontiguousarray(array)
        return names[id(array)]

    layers = {
        name: {
            "rows": m.rows,
            "samples": m.samples,
            "mean": put("mean", m.mean),
            "second": put("second", m.second),
            "gradient": put("gradient", m.gradient),
            "of_outputs": m.of_outputs,
            "independent": m.independent,
            "independent_gradients": m.independent_gradients,
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
    content = save(arrays, {KEY: json.dumps(record)})
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
        missing = {name: Untouched[reason] for name, reason in record["missing"].items()}
        origin = Origin(*(record[key] for key in Origin.__slots__))
    # The record may be JSON of any form.
    except (KeyError, TypeError, ValueError, AttributeError, RecursionError):
        raise CheckpointError(
            f"{path}: contains no calibration statistics written by rmtcli"
        ) from None
    return ByLayer(moments, missing), origin
