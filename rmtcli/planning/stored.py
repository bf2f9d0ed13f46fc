"""A layer's low-rank maps in a file, of which memory holds the losses."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from rmtcli.arrays import FloatArray
from rmtcli.layers import Layer
from rmtcli.spectra import Factors

if TYPE_CHECKING:
    from rmtcli.calibration import Folder, MetricDecomposition

#: Names of the arrays; the last two are there for a layer with a bias.
_ARRAYS = ("losses", "left", "right", "mean", "target")


@dataclass(frozen=True, slots=True, eq=False)
class StoredDecomposition:
    """The best low-rank maps of a layer in the metric of its data, kept in a file.

    Attributes:
        losses: shape (p,), descending: the loss that dropping each direction adds.
        folder: the folder of the file.
        name: its name there.
    """

    losses: FloatArray
    folder: Folder
    name: str

    @staticmethod
    def put(folder: Folder, layer: Layer, maps: MetricDecomposition) -> StoredDecomposition:
        """Store the maps of a layer, its factors in float32 unless its weight is in float64."""
        arrays: dict[str, Any] = {name: getattr(maps, name) for name in _ARRAYS}
        dtype = factor_type(layer)
        arrays |= {name: np.asarray(arrays[name], dtype) for name in ("left", "right")}
        name = _name(layer)
        folder.put(name, {key: x for key, x in arrays.items() if x is not None})
        return StoredDecomposition(maps.losses, folder, name)

    @staticmethod
    def find(folder: Folder, layer: Layer) -> StoredDecomposition | None:
        """The maps of a layer; None if they are not there."""
        arrays = folder.get(_name(layer), "losses")
        if arrays is None:
            return None
        return StoredDecomposition(np.asarray(arrays["losses"]), folder, _name(layer))

    def factors(self, rank: int) -> Factors:
        """The best map of a rank, read from the file."""
        from rmtcli.calibration import MetricDecomposition

        arrays: dict[str, Any] = dict.fromkeys(_ARRAYS) | self.folder.read(self.name)
        return MetricDecomposition(**arrays).factors(rank)


def factor_type(layer: Layer) -> type[np.floating]:
    """The type in which a layer's factors are stored: float32 unless its weight is in float64."""
    return np.float64 if layer.dtype == "F64" else np.float32


def _name(layer: Layer) -> str:
    return f"maps-{hashlib.sha256(layer.name.encode()).hexdigest()[:32]}"
