"""Rounding a pruned network's matrices to few bits, in the metric of each layer's inputs."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from rmtcli.arrays import FloatArray
from rmtcli.checkpoint import Edited, decode, encode
from rmtcli.checkpoint.dtypes import FLOATS
from rmtcli.checkpoint.names import bias_of
from rmtcli.checkpoint.packing import Packed, pack
from rmtcli.checkpoint.spill import Spill, Stored
from rmtcli.planning import LayerCalibration, LayerPlan
from rmtcli.quantization import Grid, Rounded, nearest, round_left, round_weight, scale_type

#: Matrices whose longer side has fewer entries stay as they are: a row fills a word of 32 bits.
SHORTEST = 32
#: Up to so many bits, a note says that data would help.
SAFE_BITS = 4


class Rounding:
    """A network whose matrices are stored in few bits.

    Layers are rounded with error feedback where the second moment of their inputs is known, and
    their biases take up the mean of the error; of two factors, the left one is fitted again to the
    rounded right one. All other matrices, such as embeddings, are rounded to the nearest value.
    Vectors stay as they are.

    Args:
        network: the pruned network.
        bits: bits per entry.
        calibrations: by layer name; empty without calibration.
    """

    def __init__(
        self, network: Edited, bits: int, calibrations: Mapping[str, LayerCalibration]
    ) -> None:
        self.network, self.grid, self.calibrations = network, Grid(bits), calibrations
        self._spill = Spill()
        self._new: dict[str, Stored] = {}

    def apply(self, plans: Sequence[LayerPlan]) -> Edited:
        """The network with rounded matrices.

        Args:
            plans: what was done with each layer of the network.
        """
        layers_in = Counter(plan.layer.tensor for plan in plans)
        for plan in plans:
            view = plan.layer.view
            if layers_in[plan.layer.tensor] == 1 and view.rows is None and not view.table:
                self._layer(plan)
        for name in self.network.distinct:
            if name not in self._new and self._is_matrix(name):
                stored = self._array(name)
                self._keep(name, nearest(stored, self._grid(stored.shape)))
        return self._edited()

    def _layer(self, plan: LayerPlan) -> None:
        """Round a layer's weight or its two factors, unless they are no plain matrices."""
        weight = plan.layer.tensor
        split = plan.layout.splits and plan.layout.names(weight)[0] in self.network.infos
        names = plan.layout.names(weight) if split else (weight,)
        if not all(map(self._is_matrix, names[:2])):
            return
        second, mean = self._moments(plan)
        transposed = plan.layer.view.transposed and not split
        before = [self._array(name) for name in names[:2]]
        if transposed:
            before = [before[0].T]
        after = [self._first(names[0], before[0], second, transposed=transposed)]
        if split:
            grid = self.grid.along_longer(before[1].shape)
            last = round_left(before[1], before[0], after[0], second, grid)
            self._keep(self.network.aliases.get(names[1], names[1]), last)
            after.append(last.values.astype(np.float64))
        if mean is not None:
            bias = plan.layout.bias_name(weight) if split else bias_of(weight)
            order = self._array(names[2]).astype(np.int64) if len(names) > 2 else None
            self._shift(bias, _outputs(before, mean, order) - _outputs(after, mean, order))

    def _first(
        self, name: str, matrix: FloatArray, second: FloatArray | None, *, transposed: bool
    ) -> FloatArray:
        """Round a matrix that reads the layer's inputs, once if several layers share it.

        Args:
            name: the tensor.
            matrix: its values, shape (out, in).
            second: the second moment of its inputs.
            transposed: whether the tensor is stored as in × out.
        """
        stored = self.network.aliases.get(name, name)
        if stored not in self._new:
            grid = self._grid(self.network.infos[name].shape)
            rounded = round_weight(matrix, second, grid.transposed if transposed else grid)
            self._keep(stored, rounded.transposed if transposed else rounded)
        values = decode(self._new[stored].read()).astype(np.float64)
        return values.T if transposed else values

    def _moments(self, plan: LayerPlan) -> tuple[FloatArray | None, FloatArray | None]:
        """The second moment and the mean of a layer's inputs; the mean only if a bias takes it."""
        known = self.calibrations.get(plan.layer.name)
        if known is None or known.moments.of_outputs or plan.narrowed is not None:
            return None, None
        moments = known.moments
        return (moments.covariance, moments.mean) if known.bias else (moments.second, None)

    def _is_matrix(self, name: str) -> bool:
        """Whether a tensor is rounded."""
        info = self.network.infos[name]
        matrix = len(info.shape) == 2 and min(info.shape) > 0 and max(info.shape) >= SHORTEST
        return matrix and info.dtype in FLOATS

    def _grid(self, shape: tuple[int, ...]) -> Grid:
        """The grid of a whole weight: groups run along rows, as other programs expect."""
        return self.grid if shape[1] >= SHORTEST else self.grid.along_longer(shape)

    def _array(self, name: str) -> FloatArray:
        return self.network.array(name).astype(np.float64)

    def _keep(self, name: str, rounded: Rounded) -> None:
        """Store a rounded matrix in the place of a tensor."""
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


def on_rounding(bits: int, *, calibrated: bool) -> tuple[str, ...]:
    """A note where data would help."""
    if bits > SAFE_BITS or calibrated:
        return ()
    return (
        f"every matrix was rounded to the nearest of {2**bits} values a group, without data: "
        "with --calib, errors are made up for within each layer",
    )


def _outputs(
    matrices: Sequence[FloatArray], inputs: FloatArray, order: NDArray[np.int64] | None
) -> FloatArray:
    """The outputs of a layer without its bias for one input.

    Args:
        matrices: the weight, or the right and the left factor.
        inputs: shape (in,).
        order: for pivot rows, the position of each output among theirs and the others'.
    """
    outputs = [inputs]
    for matrix in matrices:
        outputs.append(matrix @ outputs[-1])
    return outputs[-1] if order is None else np.concatenate(outputs[1:])[order]
