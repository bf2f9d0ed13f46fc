"""How much room a calibration block by block takes on a disk."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import nn

from rmtcli.evaluation.text import MASK

#: Bytes of an entry of a factor, as it is stored.
_FACTOR = 4


def positions(inputs: NDArray[Any], batch: int) -> int:
    """Number of samples, or of positions of texts with the padding of each batch."""
    if inputs.dtype.kind == "f" or inputs.ndim != 3:
        return len(inputs)
    lengths = inputs[:, MASK].sum(1)
    chunks = np.split(lengths, range(batch, len(lengths), batch))
    return int(sum(len(chunk) * chunk.max() for chunk in chunks))


def of_layers(model: nn.Module, layers: Sequence[str], width: int) -> int:
    """Bytes of the moments and decompositions of some layers, at most.

    Args:
        model: the network.
        layers: names of the modules.
        width: bytes of an entry of a moment, of which one half is stored because it is symmetric.
    """
    total = 0
    for name in layers:
        module = model.get_submodule(name)
        out, inputs = module.get_parameter("weight").flatten(1).shape
        if isinstance(module, nn.Embedding):
            out, inputs = inputs, inputs
        total += width * (out**2 + inputs**2) // 2 + _FACTOR * min(out, inputs) * (out + inputs)
    return total
