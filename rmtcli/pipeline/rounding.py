"""Rounding a pruned network's matrices to few bits, in the metric of each layer's data."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import replace
from types import MappingProxyType

import numpy as np

from rmtcli.arrays import FloatArray
from rmtcli.checkpoint import Edited, encode
from rmtcli.checkpoint.dtypes import FLOATS, TYPES
from rmtcli.checkpoint.names import bias_of
from rmtcli.checkpoint.packing import Packed, pack
from rmtcli.checkpoint.spill import Spill, Stored
from rmtcli.options import option
from rmtcli.planning import (
    LayerCalibration,
    LayerPlan,
    Matrices,
    Metric,
    round_matrices,
    round_rows,
)
from rmtcli.quantization import GROUP, Grid, Rounded, is_rounded, scale_type

#: Entries that share a scale where 128 do not divide the rows of a network's matrices.
SMALL_GROUP = 64
#: Up to so many bits, a note says that data would help.
SAFE_BITS = 4


class Rounding:
    """A network whose matrices are stored in few bits.

    Layers are rounded with error feedback where the second moment of their inputs is known, and
    their biases take up the mean of the error; of two factors, the left one is fitted again to the
    rounded right one. The rows of a table, whether it is a layer or not, are rounded with feedback
    where it is calibrated. All other matrices are rounded to the nearest value. Vectors stay as
    they are.

    Args:
        network: the pruned network.
        grids: the grids of single matrices, by the names of their tensors in the dense network.
        others: the grid of all other matrices; None leaves them as they are.
        calibrations: of the network's layers at their own widths, by name; empty without
            calibration.
        tried: weights of the dense network that were rounded before, by layer name.
    """

    def __init__(
        self,
        network: Edited,
        grids: Mapping[str, Grid],
        others: Grid | None,
        calibrations: Mapping[str, LayerCalibration],
        tried: Mapping[str, Rounded] = MappingProxyType({}),
    ) -> None:
        self.network, self.calibrations, self._tried = network, calibrations, tried
        self._grids, self._others = grids, others
        self._owners = {new: old for old, group in network.edits.items() for new in group}
        self._tied = set(network.aliases.values())
        self._spill = Spill()
        self._new: dict[str, Stored] = {}
        self._first: dict[str, Rounded] = {}  # right factors that several layers share

    @property
    def grids(self) -> dict[str, Grid]:
        """The grid of each matrix that was rounded, by the name of its tensor as above."""
        owners = (self._owners.get(name, name) for name, x in self._new.items() if _is_packed(x))
        return {name: grid for name in owners if (grid := self._grids.get(name, self._others))}

    def apply(self, plans: Sequence[LayerPlan]) -> tuple[Edited, tuple[LayerPlan, ...]]:
        """The network with rounded matrices, and the plans with what that adds to their losses.

        Args:
            plans: what was done with each layer of the network.
        """
        layers_in = Counter(plan.layer.tensor for plan in plans)
        after = []
        for plan in plans:
            view = plan.layer.view
            if layers_in[plan.layer.tensor] > 1 or view.rows is not None:
                after.append(plan)
            elif view.table:
                after.append(self._table(plan))
            else:
                after.append(self._layer(plan))
        for name in self.network.distinct:
            grid = self._grid_of(name)
            if name not in self._new and grid is not None and self._is_matrix(name):
                self._rows(name, self.calibrations.get(name), grid)
        return self._edited(), tuple(after)

    def _layer(self, plan: LayerPlan) -> LayerPlan:
        """Round a layer's weight or its two factors, unless they are no plain matrices."""
        weight = plan.layer.tensor
        split = plan.layout.splits and plan.layout.names(weight)[0] in self.network.infos
        names = plan.layout.names(weight) if split else (weight,)
        grid = self._grid_of(names[-1])
        if grid is None or not all(map(self._is_matrix, names[:2])):
            return plan
        transposed = plan.layer.view.transposed and not split
        parts = [self._array(name) for name in names[:2]]
        order = self._array(names[2]).astype(np.int64) if len(names) > 2 else None
        before = Matrices([parts[0].T] if transposed else parts, order)
        metric = Metric.of(self.calibrations.get(plan.layer.name))
        stored = self.network.aliases.get(names[0], names[0])
        grid = grid.of(self._shape(names[0]))
        shared = stored in self._tied
        own = grid.transposed if transposed else grid
        rounded = self._before(plan, own) or round_matrices(
            before,
            own,
            replace(metric, outputs=None) if split and shared else metric,
            self._first.get(stored),
        )
        if shared:
            self._first[stored] = rounded[0]
        for name, part in zip(names, rounded, strict=False):
            self._keep(name, part.transposed if transposed else part)
        after = Matrices([part.values.astype(np.float64) for part in rounded], order)
        copies = () if split else tuple(x for x in plan.layer.tied if x in self.network.infos)
        for copy in copies:
            self._keep(copy, rounded[0].transposed if transposed else rounded[0])
        if metric.mean is not None:
            change = before.outputs(metric.mean) - after.outputs(metric.mean)
            for name in (weight, *copies):
                bias = plan.layout.bias_name(name) if split else bias_of(name)
                if bias in self.network.infos:
                    self._shift(bias, change)
        loss = metric.loss(before, after, plan.predicted_loss)
        return replace(plan, bits=grid.bits, predicted_loss=loss)

    def _before(self, plan: LayerPlan, grid: Grid) -> list[Rounded]:
        """The weight of a dense layer, if it was rounded to this grid before."""
        tried = self._tried.get(plan.layer.name)
        changed = plan.layer.tensor in self.network.edits
        return [] if tried is None or tried.grid != grid or changed else [tried]

    def _table(self, plan: LayerPlan) -> LayerPlan:
        """Round a table that is looked up: each row with feedback in its output's metric."""
        name, grid = plan.layer.tensor, self._grid_of(plan.layer.tensor)
        if grid is None or name not in self.network.infos or not self._is_matrix(name):
            return plan
        loss = self._rows(name, self.calibrations.get(plan.layer.name), grid)
        return replace(plan, bits=grid.bits, predicted_loss=loss)

    def _rows(self, name: str, known: LayerCalibration | None, grid: Grid) -> float | None:
        """Round the rows of a matrix, and return the loss if it is calibrated by its outputs."""
        rows = self._array(name)
        metric = Metric.of_rows(known, rows)
        rounded = round_rows(rows, grid.of(rows.shape), metric)
        self._keep(name, rounded)
        return metric.loss(Matrices([rows]), Matrices([rounded.values.astype(np.float64)]), None)

    def _grid_of(self, name: str) -> Grid | None:
        first = self.network.aliases.get(name, name)
        return self._grids.get(self._owners.get(first, first), self._others)

    def _is_matrix(self, name: str) -> bool:
        """Whether a tensor is rounded."""
        return is_rounded(self._shape(name)) and self.network.infos[name].dtype in FLOATS

    def _shape(self, name: str) -> tuple[int, ...]:
        return self.network.infos[name].shape

    def _array(self, name: str) -> FloatArray:
        return self.network.array(name).astype(np.float64)

    def _keep(self, name: str, rounded: Rounded) -> None:
        """Store a rounded matrix in the place of a tensor, once under all its names."""
        name = self.network.aliases.get(name, name)
        if name in self._new:
            return
        info, codes = self.network.infos[name], rounded.codes
        columnwise = rounded.grid.columnwise
        words = pack(codes.T if columnwise else codes, rounded.grid.bits)
        self._new[name] = Packed(
            info.dtype,
            info.shape,
            self._spill.keep(encode(words, "I32")),
            self._spill.keep(encode(rounded.scales, scale_type(rounded.scales))),
        )

    def _shift(self, bias: str, change: FloatArray) -> None:
        """Add the mean of a layer's error to its bias; biases that are one tensor change once."""
        stored = self.network.aliases.get(bias, bias)
        if stored not in self._new:
            values = self._array(stored) + change
            dtype = self.network.infos[stored].dtype
            self._new[stored] = self._spill.keep(encode(values, dtype))

    def _edited(self) -> Edited:
        """The network with the new tensors under all names that they have."""
        network = self.network
        new = {
            name: self._new[stored]
            for name in network.infos
            if (stored := network.aliases.get(name, name)) in self._new
        }
        edits = {
            old: {name: new.get(name, tensor) for name, tensor in group.items()}
            for old, group in network.edits.items()
        }
        edits |= {n: {n: x} for n, x in new.items() if n in network.source.infos and n not in edits}
        assert network.manifest is not None
        packed = {name: x.record for name, x in new.items() if isinstance(x, Packed)}
        return Edited(network.source, edits, replace(network.manifest, packed=packed))


def _is_packed(tensor: Stored) -> bool:
    return isinstance(tensor, Packed)


def group_of(network: Edited) -> int:
    """Entries that share a scale: fewer where plain transformers reads a directory only then.

    It takes one grid for all dense layers, whose rows are divided without a rest.
    """
    rows = [info.shape[1] for info in network.infos.values() if is_rounded(info.shape)]
    plain = network.about.linear_only and not (network.manifest and network.manifest.factored)
    return SMALL_GROUP if plain and any(n % GROUP for n in rows) else GROUP


def on_rounding(bits: int | None, *, calibrated: bool) -> tuple[str, ...]:
    """A note where data would help."""
    if bits is None or bits > SAFE_BITS or calibrated:
        return ()
    return (
        f"every matrix was rounded to the nearest of {2**bits} values a group, without data: "
        f"with {option('calib')}, errors are compensated within each layer",
    )


def _opens() -> str:
    """What opens matrices in few bits."""
    return (
        "matrices are stored in few bits: rmtcli.load opens them, and so does transformers 5 if "
        f"they are in a directory; {option('bits', 'none')} keeps their types"
    )


def _safe_only() -> str:
    """That no matrix has fewer bits than are safe without data."""
    return (
        f"without data, no matrix is stored in fewer than 8 bits: with {option('calib')}, some "
        "take fewer"
    )


def on_chosen(grids: Mapping[str, Grid], *, safe: bool) -> tuple[str, ...]:
    """Notes on bits that were chosen for each matrix.

    Args:
        grids: the grids of the matrices.
        safe: whether the choice was one of safe numbers, because there were no data.
    """
    return (*((_opens(),) if grids else ()), *((_safe_only(),) if safe else ()))


def on_memory(network: Edited) -> tuple[str, ...]:
    """A note on the memory that the tensors take, by how they are loaded."""
    infos = [network.infos[name] for name in network.distinct]
    whole = sum(math.prod(info.shape) * TYPES[info.dtype].width for info in infos)
    if whole == network.bytes:
        return ()
    return (
        f"loaded, all tensors take {whole:,} bytes of memory, and {network.bytes:,} with "
        "rmtcli.load(…, packed=True), which computes weights at each use",
    )
