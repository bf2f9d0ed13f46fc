"""What layers cost at each rank, in parameters, bytes or multiply-adds."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from rmtcli.arrays import FloatArray
from rmtcli.checkpoint.dtypes import TYPES
from rmtcli.layers import Layer
from rmtcli.layouts import Factored, Layout
from rmtcli.planning.fit import Fitted, LayerCalibration

if TYPE_CHECKING:
    from rmtcli.calibration import ByLayer


@dataclass(frozen=True, slots=True)
class Costs:
    """The costs of layers in one unit.

    Attributes:
        unit: ``parameters``, ``bytes`` or ``macs``.
        calibrations: by layer name, or None if nothing was calibrated.
    """

    unit: str
    calibrations: ByLayer[LayerCalibration] | None

    def of(self, layout: Layout, group: Sequence[Fitted]) -> NDArray[np.int64]:
        """Costs of the ranks from 0 on for layers that share a right factor, or for one layer."""
        most = layout.largest_rank(sum(x.layer.shape[0] for x in group), group[0].layer.shape[1])
        ranks = range(1 + min(most, len(losses_of(group))))
        return np.array([self._sum(layout, group, rank) for rank in ranks], np.int64)

    def dense(self, group: Sequence[Fitted]) -> int:
        """Cost of the layers as they are; a look-up in a table multiplies nothing."""
        layers = [item.layer for item in group]
        if self.unit == "macs":
            layers = [layer for layer in layers if not layer.view.table]
        return sum(self._price(layer) * layer.size for layer in layers)

    def _sum(self, layout: Layout, group: Sequence[Fitted], rank: int) -> int:
        layers = [item.layer for item in group]
        count = layout.macs if self.unit == "macs" else layout.values
        values = [count(*layer.shape, rank, shares=i > 0) for i, layer in enumerate(layers)]
        cost = sum(self._price(x) * n for x, n in zip(layers, values, strict=True))
        if self.unit == "bytes":
            cost += sum(x.copies * layout.index_bytes * x.shape[0] for x in layers)
        return cost

    def _price(self, layer: Layer) -> int:
        """Cost of one value of a layer: its copies, its bytes or its uses."""
        if self.unit == "bytes":
            return layer.copies * TYPES[layer.dtype].width
        if self.unit == "macs":
            if self.calibrations is None:
                return 1
            return max(1, round(self.calibrations[layer.name].moments.uses))
        return layer.copies


def cheapest(
    choices: Sequence[Layout], costs: Callable[[Layout], NDArray[np.int64]]
) -> tuple[NDArray[np.int64], list[Layout]]:
    """The least cost of each rank from 0 on, and the layout that has it.

    Args:
        choices: the layout, or several to choose from.
        costs: gives the costs in one layout, as far as it has ranks.
    """
    tables = [costs(choice if choice.splits else Factored()) for choice in choices]
    length = max(map(len, tables))
    never = np.iinfo(np.int64).max
    padded = [np.pad(t, (0, length - len(t)), constant_values=never) for t in tables]
    best = np.argmin(padded, axis=0)
    return np.min(padded, axis=0), [choices[i] for i in best]


def losses_of(group: Sequence[Fitted]) -> FloatArray:
    """What dropping each direction adds to the loss of layers that share an approximation."""
    approximation = group[0].approximation
    assert approximation is not None
    return approximation.losses
