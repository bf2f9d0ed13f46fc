"""The tensors of an adapter, as a checkpoint that is written."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path

from rmtcli.checkpoint import Checkpoint, RawTensor, TensorInfo
from rmtcli.checkpoint.spill import Stored


class Tensors(Checkpoint):
    """Named tensors that are written to a file; none is tied to another.

    Args:
        path: what messages name.
        tensors: the tensors by name.
        metadata: text for the header of the file.
    """

    def __init__(self, path: Path, tensors: Mapping[str, Stored], metadata: Mapping[str, str]):
        self.path, self._tensors, self.metadata = path, tensors, metadata
        self.infos = {name: TensorInfo(x.shape, x.dtype) for name, x in tensors.items()}

    def raw(self, name: str) -> RawTensor:
        """The bytes of one tensor."""
        return self._tensors[name].read()

    def nbytes(self, name: str) -> int:
        """Bytes of one tensor."""
        return self._tensors[name].nbytes

    def ties(self, names: Iterable[str]) -> Mapping[str, str]:
        """No tensor is tied to another."""
        return {}
