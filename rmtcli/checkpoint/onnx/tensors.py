"""The tensors of an ONNX file as bytes, in the graph or in files beside it."""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from onnx import TensorProto, numpy_helper

from rmtcli.checkpoint.dtypes import TYPES, RawTensor
from rmtcli.errors import CheckpointError

#: Names of the types that other formats have too.
DTYPES: dict[int, str] = {
    TensorProto.FLOAT: "F32",
    TensorProto.DOUBLE: "F64",
    TensorProto.FLOAT16: "F16",
    TensorProto.BFLOAT16: "BF16",
    TensorProto.FLOAT8E4M3FN: "F8_E4M3",
    TensorProto.FLOAT8E4M3FNUZ: "F8_E4M3FNUZ",
    TensorProto.FLOAT8E5M2: "F8_E5M2",
    TensorProto.FLOAT8E5M2FNUZ: "F8_E5M2FNUZ",
    TensorProto.COMPLEX64: "C64",
    TensorProto.COMPLEX128: "C128",
    TensorProto.INT64: "I64",
    TensorProto.INT32: "I32",
    TensorProto.INT16: "I16",
    TensorProto.INT8: "I8",
    TensorProto.UINT64: "U64",
    TensorProto.UINT32: "U32",
    TensorProto.UINT16: "U16",
    TensorProto.UINT8: "U8",
    TensorProto.BOOL: "BOOL",
}
#: Numbers of the types in ONNX.
NUMBERS = {name: number for number, name in DTYPES.items()}
#: Fields that hold the values of a tensor whose bytes are in none.
_FIELDS = ("float_data", "int32_data", "int64_data", "double_data", "uint64_data")


@dataclass(frozen=True, slots=True)
class External:
    """Bytes of a tensor in a file beside the graph.

    Attributes:
        path: the file.
        offset: how many bytes are before them.
        size: how many they are.
    """

    path: Path
    offset: int
    size: int

    def read(self) -> NDArray[np.uint8]:
        """The bytes.

        Raises:
            CheckpointError: the file is shorter by now.
        """
        data = np.fromfile(self.path, np.uint8, count=self.size, offset=self.offset)
        if data.nbytes != self.size:
            raise CheckpointError(f"{self.path}: was cut short while it was read")
        return data


def is_external(tensor: TensorProto) -> bool:
    """Whether a tensor's bytes are in another file."""
    return tensor.data_location == TensorProto.EXTERNAL


def external(tensor: TensorProto, path: Path) -> External:
    """Where the bytes of a tensor are that are in another file.

    Args:
        tensor: the tensor.
        path: the file of the graph; only files in its folder are read.

    Raises:
        CheckpointError: the file is elsewhere, or does not hold so many bytes.
    """
    where = f"{path}: '{tensor.name}'"
    keys = {entry.key: entry.value for entry in tensor.external_data}
    location = keys.get("location", "")
    parts = Path(location).parts
    odd = not parts or "\\" in location or "\0" in location or Path(location).is_absolute()
    if odd or ".." in parts:
        raise CheckpointError(
            f"{where}: its data are in '{location}': only files in the graph's own folder are read"
        )
    file = path.parent.joinpath(*parts)
    try:
        inside = file.resolve().is_relative_to(path.parent.resolve())
        exists, links = file.is_file(), file.is_symlink()
    except OSError:
        raise CheckpointError(f"{where}: the name of its data's file is not valid") from None
    if not inside or links:
        raise CheckpointError(
            f"{where}: '{location}' is a link: put a copy of the file itself beside the graph"
        )
    if not exists:
        raise CheckpointError(
            f"{where}: its data are in '{location}', which is missing: put it beside the graph"
        )
    size, held = expected_bytes(tensor), file.stat().st_size
    offset, length = (_number(keys.get(key)) for key in ("offset", "length"))
    offset = 0 if offset is None else offset
    length = size if length is None else length
    if offset < 0 or length != size or offset + size > held:
        raise CheckpointError(
            f"{where}: needs {size:,} bytes of '{location}' from {offset:,} on, and the file has "
            f"{held:,}, or the record says {length:,}: it is cut short or of another graph"
        )
    return External(file, offset, size)


def _number(text: str | None) -> int | None:
    """A number of bytes in a record; -1 for anything else."""
    if text is None:
        return None
    return int(text) if text.isascii() and text.isdecimal() and len(text) < 19 else -1


def expected_bytes(tensor: TensorProto) -> int:
    """The bytes that a tensor's shape and type need, of which several may share a byte."""
    dtype, entries = DTYPES.get(tensor.data_type), math.prod(map(int, tensor.dims))
    if dtype is not None:
        return entries * TYPES[dtype].width
    name = TensorProto.DataType.Name(tensor.data_type)
    bits = next((bits for bits in (2, 4) if str(bits) in name), 8)  # INT4, UINT2, FLOAT4E2M1 …
    return (entries * bits + 7) // 8


def check(tensor: TensorProto, path: Path) -> None:
    """Make sure, without reading its values, that a tensor holds as many as its shape says.

    Raises:
        CheckpointError: it holds other numbers of them, or its type or shape is none.
    """
    where, shape = f"{path}: '{tensor.name}'", tuple(tensor.dims)
    if any(side < 0 for side in shape):
        raise CheckpointError(f"{where}: damaged: its shape is {shape}")
    if tensor.data_type not in TensorProto.DataType.values() or not tensor.data_type:
        raise CheckpointError(f"{where}: is of ONNX's type {tensor.data_type}, which is not known")
    if tensor.HasField("segment"):
        raise CheckpointError(f"{where}: is stored in segments, which rmtcli does not read")
    if is_external(tensor):
        external(tensor, path)
        return
    if tensor.data_type not in DTYPES:
        return
    size, entries = expected_bytes(tensor), math.prod(shape)
    entries *= 2 if tensor.data_type in (TensorProto.COMPLEX64, TensorProto.COMPLEX128) else 1
    held = sum(len(getattr(tensor, field)) for field in _FIELDS)
    fits = not held and len(tensor.raw_data) == size if tensor.raw_data else held == entries
    if not fits:
        amount = f"{len(tensor.raw_data):,} bytes" if tensor.raw_data else f"{held:,} values"
        raise CheckpointError(f"{where}: damaged: of shape {shape}, it holds {amount}")


def stored(tensor: TensorProto, path: Path) -> RawTensor:
    """A tensor of a known type as the file has it.

    Raises:
        CheckpointError: its values are not those of its type.
    """
    dtype, shape = DTYPES[tensor.data_type], tuple(tensor.dims)
    if is_external(tensor):
        return RawTensor(dtype, shape, external(tensor, path).read())
    if tensor.raw_data:
        return RawTensor(dtype, shape, np.frombuffer(tensor.raw_data, np.uint8))
    try:
        values = np.ascontiguousarray(numpy_helper.to_array(tensor))
    except (ValueError, TypeError, OverflowError):
        raise CheckpointError(f"{path}: '{tensor.name}': its values are damaged") from None
    return RawTensor(dtype, shape, values.reshape(-1).view(np.uint8))


def transposed(raw: RawTensor) -> RawTensor:
    """A matrix with its axes exchanged."""
    rows, columns = raw.shape
    width = TYPES[raw.dtype].width
    data = np.ascontiguousarray(raw.data.reshape(rows, columns, width).swapaxes(0, 1))
    return RawTensor(raw.dtype, (columns, rows), data.reshape(-1))


def made(name: str, raw: RawTensor) -> TensorProto:
    """A tensor whose bytes are in the graph itself."""
    return TensorProto(
        name=name,
        dims=raw.shape,
        data_type=NUMBERS[raw.dtype],
        raw_data=raw.data.tobytes(),
    )
