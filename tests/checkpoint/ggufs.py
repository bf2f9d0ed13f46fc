"""GGUF files, written byte by byte."""

from __future__ import annotations

import struct
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

#: Numbers of types of tensors, and the first bytes of a file of version 3.
F32, F16, Q8_0, BF16 = 0, 1, 8, 30
MAGIC = b"GGUF" + struct.pack("<I", 3)

#: A tensor: its shape, the number of its type, and its bytes.
Tensor = tuple[Sequence[int], int, bytes]


def string(text: str) -> bytes:
    data = text.encode()
    return struct.pack("<Q", len(data)) + data


def entry(key: str, kind: int, value: bytes) -> bytes:
    return string(key) + struct.pack("<I", kind) + value


#: Entries of every kind: a text, a number, an array of texts, one of numbers.
ENTRIES = (
    entry("general.architecture", 8, string("llama")),
    entry("general.alignment", 4, struct.pack("<I", 64)),
    entry("tokenizer.ggml.tokens", 9, struct.pack("<IQ", 8, 2) + string("a") + string("bc")),
    entry("tokenizer.ggml.scores", 9, struct.pack("<IQ", 6, 2) + bytes(8)),
)


def described(name: str, shape: Sequence[int], kind: int, offset: int) -> bytes:
    sides = tuple(shape)[::-1]
    return string(name) + struct.pack(f"<I{len(sides)}QIQ", len(sides), *sides, kind, offset)


def gguf(tensors: Mapping[str, Tensor], entries: Sequence[bytes] = ENTRIES) -> bytes:
    """A file whose tensors begin at multiples of 64 bytes."""
    head = MAGIC + struct.pack("<QQ", len(tensors), len(entries)) + b"".join(entries)
    data = b""
    for name, (shape, kind, values) in tensors.items():
        head += described(name, shape, kind, len(data))
        data += values + bytes(-len(values) % 64)
    return head + bytes(-len(head) % 64) + data


def plain(values: Any, kind: int = F32) -> Tensor:
    array = np.asarray(values, {F32: "<f4", F16: "<f2"}[kind])
    return array.shape, kind, array.tobytes()


def eight_bits(values: Any) -> Tensor:
    """Blocks of 32 entries: a scale in float16, and whole numbers."""
    array = np.asarray(values, np.float32)
    blocks = array.reshape(-1, 32)
    scales = (np.abs(blocks).max(1, keepdims=True) / 127).astype("<f2")
    codes = np.rint(blocks / scales.astype(np.float32)).astype("i1")
    rows = np.concatenate([scales.view(np.uint8), codes.view(np.uint8)], axis=1)
    return array.shape, Q8_0, rows.tobytes()
