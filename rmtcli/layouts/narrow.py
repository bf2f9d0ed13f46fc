"""Hidden layers with fewer units: the tensors around them become smaller and stay dense."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, ClassVar

import numpy as np
from numpy.typing import NDArray

from rmtcli.arrays import FloatArray
from rmtcli.checkpoint import Checkpoint, Edited, Edits, RawTensor
from rmtcli.checkpoint.names import member, module_of, plain
from rmtcli.checkpoint.spill import Spill, Stored
from rmtcli.layers import Block, Layer
from rmtcli.layouts.base import LAYOUTS
from rmtcli.layouts.dense import Dense
from rmtcli.layouts.edits import encoded

if TYPE_CHECKING:
    from rmtcli.calibration import HeadNarrowing, Narrowing, Reader


@LAYOUTS.register("narrow")
@dataclass(frozen=True, slots=True)
class Narrow(Dense):
    """Weights of fewer rows or columns, under the names of the dense ones.

    It changes the layers around a hidden layer together (:func:`narrow_edits`); a layer on its own
    is stored as in the dense layout.
    """

    ranks: ClassVar[bool] = False
    narrows: ClassVar[bool] = True
    action: ClassVar[str] = "narrowed"


@dataclass(frozen=True)
class NarrowBlock:
    """A block with the order of its units, at one width."""

    block: Block
    narrowing: Narrowing | HeadNarrowing
    width: int

    def rows(self, name: str, matrix: FloatArray) -> FloatArray:
        """The rows of a writer's matrix or bias at this width."""
        rows = self.narrowing.rows(self.block.writers.index(name), self.width, matrix)
        return np.asarray(rows, np.float64)

    @cached_property
    def readers(self) -> Mapping[str, Reader]:
        """The readers' new weights, by layer name."""
        return dict(zip(self.block.readers, self.narrowing.readers(self.width), strict=True))


def narrow_edits(
    checkpoint: Checkpoint, layers: Mapping[str, Layer], blocks: Sequence[NarrowBlock]
) -> Edits:
    """The tensors in the place of those around narrower hidden layers, under the old names.

    A writer loses rows and entries of its bias, other vectors lose entries, and a reader gets the
    weight that was fitted to the units that stay; its bias takes the mean of what they miss.

    Raises:
        LayerError: a value is beyond the range of its type.
    """
    from rmtcli.calibration import Narrowing

    writes = {name: item for item in blocks for name in item.block.writers}
    reads = {name: item.readers[name] for item in blocks for name in item.block.readers}
    spill, edits = Spill(), dict[str, Mapping[str, Stored]]()

    def put(name: str, values: FloatArray) -> None:
        made = encoded(checkpoint, name, values, checkpoint.infos[name].dtype)
        edits[name] = {name: spill.keep(made)}

    for name in dict.fromkeys((*writes, *reads)):
        layer, reader = layers[name], reads.get(name)
        matrix = layer.load().astype(np.float64) if reader is None else reader.weight
        matrix = writes[name].rows(name, matrix) if name in writes else matrix
        put(layer.tensor, np.ascontiguousarray(matrix.T if layer.view.transposed else matrix))
        bias = member(module_of(layer.tensor), "bias")
        if bias in checkpoint.infos:
            shift = 0.0 if reader is None or reader.shift is None else reader.shift
            values = checkpoint.array(bias).astype(np.float64) + shift
            put(bias, writes[name].rows(name, values) if name in writes else values)
    for item in blocks:
        if isinstance(item.narrowing, Narrowing):
            units = item.narrowing.units(item.width)
            for name in item.block.vectors:
                edits[name] = {name: spill.keep(_entries(checkpoint.raw(name), units))}
    return edits


def widened(
    network: Edited, shapes: Mapping[str, Sequence[int]], transposed: Collection[str]
) -> Edited:
    """A network whose layers have the shapes that a configuration gives them.

    Hidden layers get units whose rows, columns and biases are zero. A reader gives them no weight,
    so whatever they are, the network's outputs stay.

    Args:
        network: a network without factors.
        shapes: (out, in) of the layers beside these hidden layers, by layer name.
        transposed: last parts of the names of modules whose weight is stored as in × out.
    """
    spill, made = Spill(), dict[str, Stored]()
    for name, (outputs, inputs) in shapes.items():
        module = module_of(name)
        in_out = plain(module).rpartition(".")[2] in transposed
        sides = (inputs, outputs) if in_out else (outputs, inputs)
        for key, new in ((name, sides), (member(module, "bias"), (outputs,))):
            if key in network.infos:
                made[key] = spill.keep(_padded(network.raw(key), new))
    edits = {
        name: {key: made.pop(key, old) for key, old in group.items()}
        for name, group in network.edits.items()
    }
    edits |= {name: {name: stored} for name, stored in made.items()}
    return Edited(network.source, edits, network.manifest)


def _padded(raw: RawTensor, shape: tuple[int, ...]) -> RawTensor:
    """A tensor of any type with zeros after its entries, on each axis."""
    entries = raw.data.reshape(*raw.shape, -1)  # the last axis is that of an entry's bytes
    padding = [(0, new - old) for new, old in zip(shape, raw.shape, strict=True)]
    return RawTensor(raw.dtype, shape, np.pad(entries, [*padding, (0, 0)]).reshape(-1))


def _entries(raw: RawTensor, units: NDArray[np.int64]) -> RawTensor:
    """Some entries of a vector of any type."""
    data = raw.data.reshape(raw.shape[0], -1)[units]
    return RawTensor(raw.dtype, (len(units),), np.ascontiguousarray(data).reshape(-1))
