"""The weight of a layer with its change, computed as peft computes it.

Sums and products are rounded where peft rounds them, in the same order and by the same functions of
torch, so that merging gives the same bits as ``merge_and_unload`` of a model in the base's type.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from rmtcli.adapters.base import AdaptedLayer, Kind
from rmtcli.checkpoint import RawTensor
from rmtcli.checkpoint.dtypes import TYPES
from rmtcli.checkpoint.spill import Stored
from rmtcli.errors import LayerError

#: The function that multiplies the kernels of a convolution, by the number of its axes.
_CONVOLUTIONS = {3: functional.conv1d, 4: functional.conv2d, 5: functional.conv3d}


@dataclass(frozen=True, slots=True, eq=False)
class Merged:
    """A weight of the base with a layer's change, computed each time it is read.

    Attributes:
        base: the weight.
        layer: its change.
        transposed: whether the weight is stored as in × out.
    """

    base: Stored
    layer: AdaptedLayer
    transposed: bool = False

    @property
    def dtype(self) -> str:
        """Name of the type in safetensors."""
        return self.base.dtype

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape of the weight."""
        return self.base.shape

    @property
    def nbytes(self) -> int:
        """Bytes of the data."""
        return self.base.nbytes

    def read(self) -> RawTensor:
        """The weight with the change.

        Raises:
            CheckpointError: a factor has values that are not finite.
            LayerError: the sum has.
        """
        self.layer.check_finite()
        merged = _sum(_tensor(self.base), self.layer, self.transposed)
        if not bool(torch.isfinite(merged).all()):
            raise LayerError(
                f"'{self.layer.module}' with its change exceeds {TYPES[self.dtype].word}, or the "
                "base has values that are not finite"
            )
        data = merged.contiguous().reshape(-1).view(torch.uint8).numpy()
        return RawTensor(self.dtype, self.shape, data)


def _tensor(stored: Stored) -> Tensor:
    """A tensor in memory of torch's own, whose alignment does not depend on the file."""
    raw = stored.read()
    flat = torch.from_numpy(np.array(raw.data)).clone()
    return flat.view(getattr(torch, TYPES[raw.dtype].word)).reshape(raw.shape)


def _sum(weight: Tensor, layer: AdaptedLayer, transposed: bool) -> Tensor:
    """W + ΔW in the type of W; with magnitudes, its rows are scaled to them.

    peft keeps factors in float32 unless the weight is in float64. It rounds the sum once, but the
    change of an embedding before it is added as well.
    """
    kind = torch.float64 if weight.dtype == torch.float64 else torch.float32
    left, right = (_tensor(stored).to(kind) for stored in (layer.left, layer.right))
    product = _convolved(left, right) if layer.kind is Kind.CONVOLUTION else left @ right
    change = (product.T if transposed else product) * layer.scale
    if layer.magnitude is not None and layer.by_input:
        merged = weight + change
        own = _by_input(merged.T if transposed else merged, _tensor(layer.magnitude).to(kind))
        return (own.T if transposed else own).to(weight.dtype)
    if layer.magnitude is None:
        weight += change.to(weight.dtype) if layer.kind is Kind.EMBEDDING else change
        return weight
    upright = (weight.T if transposed else weight) + (change.T if transposed else change)
    norms: Tensor = torch.linalg.norm(upright, dim=1)
    factor: Tensor = (_tensor(layer.magnitude).to(kind) / norms).view(-1, 1)
    scaled: Tensor = (factor.T if transposed else factor) * (weight + change)
    return scaled.to(weight.dtype)


def _by_input(merged: Tensor, magnitude: Tensor) -> Tensor:
    """A weight, out × in × …, whose parts for each input are scaled to their magnitudes.

    LyCORIS adds the smallest step of the type to the norms, so that none is 0.
    """
    axes = [axis for axis in range(merged.ndim) if axis != 1]
    norms: Tensor = torch.linalg.vector_norm(merged, dim=axes, keepdim=True)
    return merged * (magnitude.reshape(norms.shape) / (norms + torch.finfo(merged.dtype).eps))


def _convolved(left: Tensor, right: Tensor) -> Tensor:
    """The kernel of two convolutions after each other, the second one of 1 × 1."""
    if right.shape[2:4] == (1, 1):
        return (left.flatten(1) @ right.flatten(1)).reshape(len(left), *right.shape[1:])
    kernel: Tensor = _CONVOLUTIONS[right.ndim](right.transpose(0, 1), left)
    whole: Tensor = kernel.transpose(0, 1)
    return whole
