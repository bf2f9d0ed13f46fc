"""Torch tensors as a checkpoint's: their types, bytes and ties."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from rmtcli.checkpoint.base import Checkpoint, TensorInfo
from rmtcli.checkpoint.dtypes import TYPES, RawTensor
from rmtcli.checkpoint.ties import equal_keys

#: torch's types, those that this version of it has, and their names.
DTYPES = {
    getattr(torch, dtype.word): name for name, dtype in TYPES.items() if hasattr(torch, dtype.word)
}
#: The type of which torch counts pairs of values.
PAIRS = "F4"


class HeldTensors(Checkpoint):
    """A checkpoint whose tensors torch holds: in memory, or mapped from a file.

    Attributes:
        state: the tensors by name, and perhaps other values under other names.
    """

    state: Mapping[Any, Any]

    def raw(self, name: str) -> RawTensor:
        """The bytes of one tensor, in C order; a view of a tensor in the processor's memory."""
        info = self.infos[name]
        return RawTensor(info.dtype, info.shape, bytes_of(self.state[name]))

    def nbytes(self, name: str) -> int:
        """Bytes of one tensor."""
        value: torch.Tensor = self.state[name]
        return value.numel() * value.element_size()

    def ties(self, names: Iterable[str]) -> Mapping[str, str]:
        """Tensors that are equal views of one storage."""
        # Empty tensors share nothing, whatever their address.
        keys = {name: storage_key(self.state[name]) for name in names if self.infos[name].size}
        return equal_keys(keys)


def info_of(value: torch.Tensor) -> TensorInfo:
    """A tensor's type, and its shape in values: torch counts pairs of those of 4 bits."""
    name, shape = DTYPES[value.dtype], tuple(value.shape)
    return TensorInfo((*shape[:-1], 2 * shape[-1]) if name == PAIRS else shape, name)


def storage_key(value: torch.Tensor) -> tuple[object, ...]:
    """A key that tensors share if they are equal views of one storage."""
    storage, kind = value.untyped_storage().data_ptr(), (value.is_conj(), value.is_neg())
    return storage, value.storage_offset(), tuple(value.shape), value.stride(), value.dtype, kind


def bytes_of(value: torch.Tensor) -> NDArray[np.uint8]:
    """The bytes of a tensor, in C order; a view of one in the processor's memory."""
    if not value.numel():
        return np.zeros(0, np.uint8)
    flat = value.detach().resolve_conj().resolve_neg().contiguous().reshape(-1)
    data: NDArray[np.uint8] = flat.view(torch.uint8).cpu().numpy()
    return data
