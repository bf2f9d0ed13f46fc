"""New tensors, kept in a temporary file until the output is written."""

from __future__ import annotations

import tempfile
import weakref
from dataclasses import dataclass
from typing import IO, Protocol

import numpy as np

from rmtcli.checkpoint.dtypes import RawTensor

#: Up to so many bytes they are kept in memory.
IN_MEMORY = 8 * 2**20


class Stored(Protocol):
    """A tensor whose bytes are read when they are needed."""

    @property
    def dtype(self) -> str:
        """Name of the type in safetensors."""
        ...

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape of the tensor."""
        ...

    @property
    def nbytes(self) -> int:
        """Bytes of the data."""
        ...

    def read(self) -> RawTensor:
        """The tensor with its data."""
        ...


class Spill:
    """An unnamed temporary file that holds the factors of all layers.

    Together they are as large as the output, so they must not pile up in memory. The file is in the
    system's folder for temporary files (``TMPDIR``) and is deleted with the process.
    """

    def __init__(self) -> None:
        self._file: IO[bytes] = tempfile.SpooledTemporaryFile(max_size=IN_MEMORY)  # noqa: SIM115
        self._end = 0
        weakref.finalize(self, self._file.close)  # once no tensor refers to it

    def keep(self, tensor: RawTensor) -> Spilled:
        """Store a tensor."""
        kept = Spilled(tensor.dtype, tensor.shape, tensor.nbytes, self._end, self)
        self.write(self._end, tensor)
        self._end += tensor.nbytes
        return kept

    def read(self, offset: int, size: int) -> bytes:
        """Read ``size`` bytes from ``offset`` on."""
        self._file.seek(offset)
        return self._file.read(size)

    def write(self, offset: int, tensor: RawTensor) -> None:
        """Write a tensor's bytes at ``offset``."""
        self._file.seek(offset)
        self._file.write(tensor.data.data)


@dataclass(frozen=True, slots=True, eq=False)
class Spilled:
    """A tensor that a :class:`Spill` holds."""

    dtype: str
    shape: tuple[int, ...]
    nbytes: int
    offset: int
    spill: Spill

    def read(self) -> RawTensor:
        """The tensor, read from the file at each call, so that no memory holds it."""
        data = np.frombuffer(self.spill.read(self.offset, self.nbytes), np.uint8)
        return RawTensor(self.dtype, self.shape, data)

    def put(self, start: int, part: RawTensor) -> None:
        """Replace entries along the first axis, from ``start`` on."""
        self.spill.write(self.offset + start * (self.nbytes // self.shape[0]), part)
