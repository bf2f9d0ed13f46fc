"""Parameters in few bits that are trained: rounded values, except while an optimizer changes them.

The gradient is taken at the rounded values, and changes the values before rounding (Bengio, Léonard
and Courville, arXiv:1308.3432). Scales stay.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor, nn

from rmtcli.checkpoint import decode, encode
from rmtcli.checkpoint.packing import Packed, pack


@dataclass(frozen=True, slots=True, eq=False)
class _Grid:
    """The grid of one parameter.

    Attributes:
        packed: its tensor in the checkpoint.
        scales: the scale of each entry.
        latent: the values before rounding.
    """

    packed: Packed
    scales: Tensor
    latent: Tensor

    @staticmethod
    def of(packed: Packed, values: Tensor) -> _Grid:
        """The grid of a tensor in few bits, which holds these values."""
        scales = torch.from_numpy(decode(packed.scales.read()).astype(np.float32))
        each = scales.repeat_interleave(packed.group, 1)[:, : packed.entries]
        each = (each.T if packed.columnwise else each).to(values.device)
        return _Grid(packed, each.contiguous(), values.detach().clone())

    @property
    def codes(self) -> Tensor:
        """The codes that are nearest to the values."""
        half = 2 ** (self.packed.bits - 1)
        codes = (self.latent / self.scales).round().nan_to_num(0, 0, 0)
        return codes.clamp(-half, half - 1)

    @property
    def stored(self) -> Packed:
        """The tensor with these codes."""
        codes = self.codes.to(torch.int8).cpu().numpy()
        words = pack(codes.T if self.packed.columnwise else codes, self.packed.bits)
        return replace(self.packed, codes=encode(words, "I32"))


class Grids:
    """The grids of parameters that hold rounded values.

    Args:
        packed: the tensors of the checkpoint, by parameter.
    """

    def __init__(self, packed: Mapping[nn.Parameter, Packed]) -> None:
        self._grids = {p: _Grid.of(tensor, p) for p, tensor in packed.items()}

    def attach(self, optimizer: torch.optim.Optimizer) -> None:
        """Have an optimizer change the values before rounding."""
        optimizer.register_step_pre_hook(lambda *_: self._release())
        optimizer.register_step_post_hook(lambda *_: self._round())

    def stored(self, parameter: nn.Parameter) -> Packed:
        """The tensor of a parameter with its codes as they are now."""
        return self._grids[parameter].stored

    @property
    def finite(self) -> bool:
        """Whether all values before rounding are finite."""
        return all(bool(grid.latent.isfinite().all()) for grid in self._grids.values())

    @torch.no_grad()
    def _release(self) -> None:
        for parameter, grid in self._grids.items():
            parameter.copy_(grid.latent)

    @torch.no_grad()
    def _round(self) -> None:
        for parameter, grid in self._grids.items():
            grid.latent.copy_(parameter)
            parameter.copy_(grid.codes * grid.scales)
