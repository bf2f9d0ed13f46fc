"""How much room a run block by block takes on a disk."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import nn

from rmtcli.calibration.reliability import APART_BYTES
from rmtcli.evaluation.text import MASK

#: Bytes of an entry of a factor, as it is stored.
_FACTOR = 4
#: Healing keeps the states before and after a block, of two networks.
_HEALED = 4


@dataclass(frozen=True, slots=True)
class Room:
    """About how many bytes the files of a run take.

    Attributes:
        state: a state between two blocks.
        states: all of them, and the gradients before and after a block.
        moments: the moments of all layers, and those of samples that are kept apart.
        maps: their decompositions. Factors take as much at most.
    """

    state: int
    states: int
    moments: int
    maps: int

    def needed(self, *, states: bool, refines: bool, heals: bool) -> int:
        """The largest number of bytes at a time.

        Args:
            states: whether the states of the calibration are files; none is left at its end.
            refines: whether factors are fitted again or trained.
            heals: whether they are trained.
        """
        calibrating = self.moments + (self.states if states else 0)
        refining = self.moments + self.maps * (1 + refines) + _HEALED * self.state * heals
        return max(calibrating, refining)


def room(
    states: Sequence[tuple[int, int]],
    draws: int,
    model: nn.Module,
    layers: Sequence[str],
    width: int,
) -> Room:
    """What the files of a run take.

    Args:
        states: bytes of a state in each chain of blocks, and the number of its blocks.
        draws: number of backward passes.
        model: the network.
        layers: names of the modules whose moments are taken.
        width: bytes of an entry of a moment, of which one half is stored because it is symmetric.
    """
    moments = maps = 0
    for name in layers:
        module = model.get_submodule(name)
        out, inputs = module.get_parameter("weight").flatten(1).shape
        if isinstance(module, nn.Embedding):
            out, inputs = inputs, inputs
        moments += width * (out**2 + inputs**2) // 2
        maps += _FACTOR * min(out, inputs) * (out + inputs)
    moments += min(moments, APART_BYTES)
    total = sum(size * (blocks + 1 + 2 * draws) for size, blocks in states)
    return Room(max(size for size, _ in states), total, moments, maps)


def positions(inputs: NDArray[Any], batch: int) -> int:
    """Number of samples, or of positions of texts with the padding of each batch."""
    if inputs.dtype.kind == "f" or inputs.ndim != 3:
        return len(inputs)
    lengths = inputs[:, MASK].sum(1)
    chunks = np.split(lengths, range(batch, len(lengths), batch))
    return int(sum(len(chunk) * chunk.max() for chunk in chunks))
