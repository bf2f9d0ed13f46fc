"""Tensors as bytes, with types by their names in safetensors."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

#: Types that can be analysed, and the NumPy type that holds their values exactly. NumPy has no
#: bfloat16; float32 holds every value of it.
FLOATS: dict[str, np.dtype[Any]] = {
    "F64": np.dtype("<f8"),
    "F32": np.dtype("<f4"),
    "F16": np.dtype("<f2"),
    "BF16": np.dtype("<f4"),
}
#: Bytes per value.
BYTES = {"F64": 8, "F32": 4, "F16": 2, "BF16": 2}
#: The largest rounding error of each type: relative, and for subnormal numbers absolute.
ROUNDING = {
    "F64": (2.0**-53, 2.0**-1075),
    "F32": (2.0**-24, 2.0**-150),
    "F16": (2.0**-11, 2.0**-25),
    "BF16": (2.0**-8, 2.0**-134),
}
#: Names of the types in messages and options.
WORDS = {"F64": "float64", "F32": "float32", "F16": "float16", "BF16": "bfloat16"}


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
    """The values of a floating tensor, exactly; may share memory with ``raw``."""
    if raw.dtype == "BF16":
        bits = raw.data.view("<u2").astype("<u4") << 16
        return bits.view("<f4").reshape(raw.shape)
    values: NDArray[np.floating] = raw.data.view(FLOATS[raw.dtype]).reshape(raw.shape)
    return values


def encode(values: NDArray[np.floating], dtype: str) -> RawTensor:
    """Round ``values`` to ``dtype``, ties to even; bfloat16 is rounded from float32.

    Raises:
        OverflowError: a value is beyond the range of ``dtype``.
    """
    with np.errstate(over="ignore"):
        rounded = np.ascontiguousarray(values, dtype=FLOATS[dtype])
    if dtype == "BF16":
        bits = rounded.view("<u4")
        rounded = ((bits + (0x7FFF + ((bits >> 16) & 1))) >> 16).astype("<u2")
        finite = bool(np.all((rounded & 0x7F80) != 0x7F80))
    else:
        finite = bool(np.all(np.isfinite(rounded)))
    if not finite:
        raise OverflowError(f"a value is beyond the range of {WORDS[dtype]}")
    return RawTensor(dtype, values.shape, rounded.reshape(-1).view(np.uint8))
