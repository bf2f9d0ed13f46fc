"""Tensors as bytes, with types by their names in safetensors."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True, slots=True)
class DType:
    """A type of stored values.

    Attributes:
        name: its name in safetensors, or one of the same form.
        word: its name in torch, in messages and in options.
        bits: bits per value.
        trained: whether values of it are parameters: whole numbers and truth values are not.
        array: the NumPy type that holds its values exactly, if there is one for real numbers. NumPy
            has no bfloat16; float32 holds every value of it.
        rounding: the largest rounding error, relative, and for subnormal numbers absolute; zeros
            for types that are not analysed.
        storage: the class of its storages in a torch file, if it has one.
        exported: its number in the schema of ``torch.export``, if it has one.
        in_safetensors: whether safetensors has the type.
    """

    name: str
    word: str
    bits: int
    trained: bool = False
    array: np.dtype[Any] | None = None
    rounding: tuple[float, float] = (0.0, 0.0)
    storage: str | None = None
    exported: int | None = None
    in_safetensors: bool = True

    @property
    def width(self) -> int:
        """Bytes of one value; 0 for types of which several share a byte."""
        return self.bits // 8


def _whole(name: str, word: str, kind: str, storage: str, exported: int) -> DType:
    """A type of whole numbers or truth values."""
    array = np.dtype(kind)
    bits = 8 * array.itemsize
    return DType(name, word, bits, array=array, storage=storage, exported=exported)


def _real(
    name: str, word: str, kind: str, bits: int, digits: int, least: int, storage: str, exported: int
) -> DType:
    """A type of real numbers with a precision of 2⁻ᵈ, d ``digits``, and the smallest 2ˡ."""
    rounding = 2.0**-digits, 2.0 ** (least - 1)
    return DType(name, word, bits, True, np.dtype(kind), rounding, storage, exported)


def _eight(name: str, word: str, exported: int) -> DType:
    """A type of 8 bits for real numbers, of which NumPy has none."""
    return DType(name, word, 8, True, storage=f"{word.capitalize()}Storage", exported=exported)


def _complex(name: str, word: str, bits: int, storage: str, exported: int) -> DType:
    """A type of complex numbers, of which safetensors has one."""
    known = name == "C64"
    return DType(
        name, word, bits, True, None, storage=storage, exported=exported, in_safetensors=known
    )


#: Every type that a file may hold, by its name.
TYPES: dict[str, DType] = {
    dtype.name: dtype
    for dtype in (
        _real("F64", "float64", "<f8", 64, 53, -1074, "DoubleStorage", 8),
        _real("F32", "float32", "<f4", 32, 24, -149, "FloatStorage", 7),
        _real("F16", "float16", "<f2", 16, 11, -24, "HalfStorage", 6),
        _real("BF16", "bfloat16", "<f4", 16, 8, -133, "BFloat16Storage", 13),
        _eight("F8_E4M3", "float8_e4m3fn", 29),
        _eight("F8_E5M2", "float8_e5m2", 30),
        _eight("F8_E4M3FNUZ", "float8_e4m3fnuz", 31),
        _eight("F8_E5M2FNUZ", "float8_e5m2fnuz", 32),
        _eight("F8_E8M0", "float8_e8m0fnu", 33),
        DType("F6_E2M3", "float6_e2m3", 6, True),
        DType("F6_E3M2", "float6_e3m2", 6, True),
        DType("F4", "float4_e2m1fn_x2", 4, True),
        _complex("C128", "complex128", 128, "ComplexDoubleStorage", 11),
        _complex("C64", "complex64", 64, "ComplexFloatStorage", 10),
        _complex("C32", "complex32", 32, "ComplexHalfStorage", 9),
        _whole("I64", "int64", "<i8", "LongStorage", 5),
        _whole("I32", "int32", "<i4", "IntStorage", 4),
        _whole("I16", "int16", "<i2", "ShortStorage", 3),
        _whole("I8", "int8", "i1", "CharStorage", 2),
        _whole("U64", "uint64", "<u8", "UInt64Storage", 35),
        _whole("U32", "uint32", "<u4", "UInt32Storage", 34),
        _whole("U16", "uint16", "<u2", "UInt16Storage", 28),
        _whole("U8", "uint8", "u1", "ByteStorage", 1),
        _whole("BOOL", "bool", "?", "BoolStorage", 12),
    )
}
#: The types that can be analysed.
FLOATS = {name: dtype for name, dtype in TYPES.items() if any(dtype.rounding)}
#: torch's word for each of these types -> its name.
FLOAT_WORDS = {dtype.word: name for name, dtype in FLOATS.items()}


@dataclass(frozen=True, slots=True, eq=False)
class RawTensor:
    """A tensor as a file stores it.

    Attributes:
        dtype: safetensors' name of the type, such as ``BF16``.
        shape: its shape.
        data: its bytes, C-ordered and little-endian, as a flat uint8 array.
    """

    dtype: str
    shape: tuple[int, ...]
    data: NDArray[np.uint8]

    @property
    def nbytes(self) -> int:
        """Bytes of the data."""
        return self.data.nbytes

    def read(self) -> RawTensor:
        """The tensor itself, which is already in memory."""
        return self


def decode(raw: RawTensor) -> NDArray[np.floating]:
    """The values of a tensor whose type has one of NumPy's, exactly; may share memory with it."""
    if raw.dtype == "BF16":
        bits = raw.data.view("<u2").astype("<u4")
        bits <<= 16  # in place: a table of tokens takes hundreds of megabytes
        return bits.view("<f4").reshape(raw.shape)
    kind = TYPES[raw.dtype].array
    assert kind is not None
    values: NDArray[np.floating] = raw.data.view(kind).reshape(raw.shape)
    return values


def encode(values: NDArray[np.floating] | NDArray[np.integer], dtype: str) -> RawTensor:
    """Round ``values`` to ``dtype``, ties to even; bfloat16 is rounded from float32.

    Raises:
        OverflowError: a value is beyond the range of ``dtype``.
    """
    with np.errstate(over="ignore"):
        rounded = np.ascontiguousarray(values, dtype=TYPES[dtype].array)
    if dtype == "BF16":
        bits = rounded.view("<u4")
        rounded = ((bits + (0x7FFF + ((bits >> 16) & 1))) >> 16).astype("<u2")
        finite = bool(np.all((rounded & 0x7F80) != 0x7F80))
    else:
        finite = bool(np.all(np.isfinite(rounded)))
    if not finite:
        raise OverflowError(f"a value is beyond the range of {TYPES[dtype].word}")
    return RawTensor(dtype, values.shape, rounded.reshape(-1).view(np.uint8))
