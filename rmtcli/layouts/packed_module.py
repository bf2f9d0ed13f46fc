"""Modules whose weights stay in few bits in memory, and are computed at each use."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize

from rmtcli.checkpoint import Checkpoint
from rmtcli.checkpoint.packing import Packed
from rmtcli.checkpoint.torch.file import to_torch


class PackedWeight(nn.Module):
    """A weight in few bits: the parametrization of a module's parameter.

    Args:
        packed: the tensor in the file.
        like: the parameter, whose type the weight has.
    """

    words: Tensor
    scales: Tensor
    starts: Tensor

    def __init__(self, packed: Packed, like: Tensor) -> None:
        super().__init__()
        self.bits, self.group, self.entries = packed.bits, packed.group, packed.entries
        self.columnwise = packed.columnwise
        words, scales = to_torch(packed.codes.read()), to_torch(packed.scales.read())
        self.register_buffer("words", words.to(like.device))
        self.register_buffer("scales", scales.to(like.device))
        starts = torch.arange(self.entries, dtype=torch.int64, device=like.device) * self.bits
        self.register_buffer("starts", starts, persistent=False)

    def right_inverse(self, weight: Tensor) -> Tensor:
        """What is kept of the parameter: its type."""
        return weight.detach().new_empty(0)

    @property
    def codes(self) -> Tensor:
        """The whole number of each entry, shape (rows, entries)."""
        words, starts = self.words.long() & 0xFFFFFFFF, self.starts
        first, offset = starts // 32, starts % 32
        second = (first + 1).clamp(max=words.shape[1] - 1)
        both = words[:, first] | (words[:, second] << 32)
        codes: Tensor = ((both >> offset) & (2**self.bits - 1)) - 2 ** (self.bits - 1)
        return codes

    def forward(self, empty: Tensor) -> Tensor:
        """The weight.

        Args:
            empty: shape (0,), of the weight's type.
        """
        each = self.scales.float().repeat_interleave(self.group, 1)[:, : self.entries]
        weight: Tensor = (self.codes * each).to(empty.dtype)
        return weight.T if self.columnwise else weight


def keep_packed(
    model: nn.Module, checkpoint: Checkpoint, own: Callable[[str], str | None]
) -> nn.Module:
    """Keep the weights of a loaded module in few bits that its file holds in few bits.

    Args:
        model: the module, which is changed. These weights are no longer parameters that can be
            trained.
        checkpoint: the file.
        own: the module's name of a tensor; None for one that it does not have.
    """
    made: dict[int, PackedWeight] = {}  # tied parameters share one
    values = model.state_dict(keep_vars=True)
    for name in checkpoint.infos:
        packed, key = checkpoint.packed(name), own(name)
        value: Any = values.get(key or "")
        if packed is not None and isinstance(value, nn.Parameter) and id(value) not in made:
            made[id(value)] = PackedWeight(packed, value)
    for module in list(model.modules()):
        for key, parameter in list(module._parameters.items()):
            if parameter is not None and id(parameter) in made:
                part = made[id(parameter)]
                parametrize.register_parametrization(module, key, part, unsafe=True)
                parts: Any = module.parametrizations
                parts[key].original.requires_grad_(False)
    return model
