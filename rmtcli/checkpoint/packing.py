"""Tensors in few bits, as compressed-tensors packs them: whole numbers in words, and scales.

A tensor ``X`` is three in the file: ``X_packed`` holds the codes as a stream of bits, row by row,
each row filled up to words of 32 bits, the low bits first; ``X_scale`` has one scale for each group
of a row; ``X_shape`` has the shape. A code with b bits is stored as code + 2ᵇ⁻¹. The rows are those
of the tensor, or its columns where these are longer and other programs need not read them.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from rmtcli.checkpoint.dtypes import FLOATS, RawTensor, decode, encode
from rmtcli.checkpoint.spill import Stored
from rmtcli.errors import CheckpointError

#: Ends of the names of a packed tensor's three parts.
CODES, SCALES, SHAPE = "_packed", "_scale", "_shape"
#: Numbers of bits that are packed.
LEAST_BITS, MOST_BITS = 2, 8
_WORD = 32
#: Codes that are converted at a time.
_BLOCK = 2**20


def part_names(name: str) -> tuple[str, str, str]:
    """Names of a packed tensor's codes, scales and shape."""
    return name + CODES, name + SCALES, name + SHAPE


def pack(codes: NDArray[np.int8], bits: int) -> NDArray[np.int32]:
    """Codes as words.

    Args:
        codes: shape (rows, entries).
        bits: bits per code.

    Returns:
        Shape (rows, words).
    """
    rows, entries = codes.shape
    words = -(-entries * bits // _WORD)
    packed = np.zeros((rows, words), "<i4")
    step = max(1, _BLOCK // max(entries, 1))
    shifts = np.arange(bits, dtype=np.uint8)
    for start in range(0, rows, step):
        raised = (codes[start : start + step].astype(np.int16) + 2 ** (bits - 1)).astype(np.uint8)
        stream = ((raised[..., None] >> shifts) & 1).reshape(len(raised), -1)
        filled = np.pad(stream, ((0, 0), (0, words * _WORD - stream.shape[1])))
        packed[start : start + step] = np.packbits(filled, axis=1, bitorder="little").view("<i4")
    return packed


def unpack(packed: NDArray[np.int32], bits: int, entries: int) -> NDArray[np.int8]:
    """Codes from words: the inverse of :func:`pack`.

    Args:
        packed: shape (rows, words).
        bits: bits per code.
        entries: codes in a row.
    """
    codes = np.empty((len(packed), entries), np.int8)
    step = max(1, _BLOCK // max(entries, 1))
    values = (1 << np.arange(bits)).astype(np.uint8)
    for start in range(0, len(packed), step):
        block = np.ascontiguousarray(packed[start : start + step], "<i4").view(np.uint8)
        stream = np.unpackbits(block, axis=1, bitorder="little", count=entries * bits)
        raised = (stream.reshape(len(block), entries, bits) * values).sum(axis=2, dtype=np.int16)
        codes[start : start + step] = (raised - 2 ** (bits - 1)).astype(np.int8)
    return codes


@dataclass(frozen=True, slots=True, eq=False)
class Packed:
    """A tensor in few bits, which reads as one of its own type.

    Attributes:
        dtype: type of the values that it stands for.
        shape: its shape, (rows, columns).
        codes: the words, shape (rows, words), or (columns, words) if ``columnwise``.
        scales: shape (rows, groups) or (columns, groups).
    """

    dtype: str
    shape: tuple[int, ...]
    codes: Stored
    scales: Stored

    @property
    def columnwise(self) -> bool:
        """Whether codes run along columns."""
        return self.codes.shape[0] != self.shape[0]

    @property
    def entries(self) -> int:
        """Codes in one row of words."""
        return self.shape[0] if self.columnwise else self.shape[1]

    @property
    def bits(self) -> int:
        """Bits per code."""
        return self.codes.shape[1] * _WORD // self.entries

    @property
    def group(self) -> int:
        """Codes that share a scale: a power of two, or else a divisor of a row's length."""
        groups = self.scales.shape[1]
        if groups == 1:
            return self.entries
        power = 1 << max(0, -(-self.entries // groups) - 1).bit_length()
        return power if -(-self.entries // power) == groups else self.entries // groups

    @property
    def nbytes(self) -> int:
        """Bytes of all three parts."""
        return self.codes.nbytes + self.scales.nbytes + 8 * len(self.shape)

    def read(self) -> RawTensor:
        """The values: each code times the scale of its group, rounded to ``dtype``.

        Raises:
            OverflowError: a value is beyond the range of ``dtype``.
        """
        words = decode(self.codes.read())
        codes = unpack(words.astype(np.int32, copy=False), self.bits, self.entries)
        each = np.repeat(decode(self.scales.read()), self.group, axis=1)[:, : self.entries]
        with np.errstate(invalid="ignore", over="ignore"):  # encode refuses what comes of it
            values = codes * each.astype(np.float32)
        return encode(values.T if self.columnwise else values, self.dtype)

    @property
    def plain(self) -> bool:
        """Whether compressed-tensors reads it: by rows, whose groups all have the same length."""
        return not self.columnwise and self.entries % self.group == 0

    @property
    def record(self) -> dict[str, str | int | bool]:
        """What a manifest says of it."""
        return {
            "dtype": self.dtype,
            "bits": self.bits,
            "group": self.group,
            "plain": self.plain,
        }

    @property
    def held(self) -> Packed:
        """The tensor with its parts in memory."""
        return replace(self, codes=self.codes.read(), scales=self.scales.read())

    def parts(self, name: str) -> Mapping[str, Stored]:
        """The three tensors of a file, by name."""
        shape = np.array(self.shape, "<i8")
        raw = RawTensor("I64", shape.shape, shape.view(np.uint8))
        return dict(zip(part_names(name), (self.codes, self.scales, raw), strict=True))

    def check(self, where: str) -> None:
        """Make sure that the parts fit together.

        Raises:
            CheckpointError: they do not.
        """
        if len(self.shape) != 2 or min(self.shape) < 1:
            raise CheckpointError(f"{where}: a packed tensor must be a matrix, not {self.shape}")
        codes, scales = self.codes.shape, self.scales.shape
        lengths = {self.shape[0]: self.shape[1], self.shape[1]: self.shape[0]}
        lengths[self.shape[0]] = self.shape[1]  # a square matrix is packed by rows
        fits = (
            self.codes.dtype == "I32"
            and self.scales.dtype in FLOATS
            and len(codes) == len(scales) == 2
            and codes[0] == scales[0]
            and codes[0] in lengths
            and 1 <= scales[1] <= lengths[codes[0]]
        )
        bits = self.bits if fits else 0
        if not fits or not LEAST_BITS <= bits <= MOST_BITS or self._words(bits) != codes[1]:
            raise CheckpointError(
                f"{where}: codes of shape {codes} and scales of shape {scales} do not fit a packed "
                f"matrix of shape {self.shape}"
            )
        if -(-self.entries // self.group) != scales[1]:
            raise CheckpointError(f"{where}: {scales[1]} groups do not divide {self.entries} codes")

    def _words(self, bits: int) -> int:
        return -(-self.entries * bits // _WORD)
