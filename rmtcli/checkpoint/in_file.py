"""A tensor of a checkpoint that is read when it is needed."""

from __future__ import annotations

from dataclasses import dataclass

from rmtcli.checkpoint.base import Checkpoint
from rmtcli.checkpoint.dtypes import RawTensor


@dataclass(frozen=True, slots=True, eq=False)
class InFile:
    """A tensor in a checkpoint, which is read at each call."""

    checkpoint: Checkpoint
    name: str

    @property
    def dtype(self) -> str:
        """Name of the type in safetensors."""
        return self.checkpoint.infos[self.name].dtype

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape of the tensor."""
        return self.checkpoint.infos[self.name].shape

    @property
    def nbytes(self) -> int:
        """Bytes of the data."""
        return self.checkpoint.nbytes(self.name)

    def read(self) -> RawTensor:
        """The tensor with its data."""
        return self.checkpoint.raw(self.name)
