"""New tensors that wait on the disk until they are written to their place."""

from __future__ import annotations

import tempfile
import weakref
from dataclasses import dataclass
from typing import IO, Protocol

import numpy as np

from rmtcli.checkpoint.dtypes import RawTensor

#: Up to here they wait in memory.
IN_MEMORY = 8 * 2**20


class Stored(Protocol):
    """A tensor whose bytes can be had when they are needed."""

    @property
    def dtype(self) -> str:
        """Safetensors' name of the type."""
        ...

    @property
    def shape(self) -> tuple[int, ...]:
        """Its shape."""
        ...

    @property
    def nbytes(self) -> int:
        """Size of its data."""
        ...

    def read(self) -> RawTensor:
        """The tensor with its data."""
        ...


class Spill:
    """A nameless temporary file that holds the factors of all layers.

    They are as large as the checkpoint that they will stand in, so they must not pile up in memory.
    The file is in the system's folder for temporary files (``TMPDIR``) and goes with the process.
    """

    def __init__(self) -> None:
        self._file: IO[bytes] = tempfile.SpooledTemporaryFile(max_size=IN_MEMORY)  # noqa: SIM115
        self._end = 0
        weakref.finalize(self, self._file.close)  # when the last tensor in it is gone

    def keep(self, tensor: RawTensor) -> Spilled:
        """Put a tensor's bytes away."""
        kept = Spilled(tensor.dtype, tensor.shape, tensor.nbytes, self._end, self)
        self.write(self._end, tensor)
        self._end += tensor.nbytes
        return kept

    def read(self, offset: int, size: int) -> bytes:
        """Some of its bytes."""
        self._file.seek(offset)
        return self._file.read(size)

    def write(self, offset: int, tensor: RawTensor) -> None:
        """A tensor's bytes to some place."""
        self._file.seek(offset)
        self._file.write(tensor.data.data)


@dataclass(frozen=True, slots=True, eq=False)
class Spilled:
    """A tensor in a :class:`Spill`."""

    dtype: str
    shape: tuple[int, ...]
    nbytes: int
    offset: int
    spill: Spill

    def read(self) -> RawTensor:
        """The tensor, read anew each time, so that nobody's memory holds it."""
        data = np.frombuffer(self.spill.read(self.offset, self.nbytes), np.uint8)
        return RawTensor(self.dtype, self.shape, data)

    def put(self, start: int, part: RawTensor) -> None:
        """Replace entries along the first axis, from ``start`` on."""
        self.spill.write(self.offset + start * (self.nbytes // self.shape[0]), part)
