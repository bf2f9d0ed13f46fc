"""A convolution's right factor that a file holds in two parts (LyCORIS' Tucker decomposition)."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from rmtcli.checkpoint import RawTensor, decode, encode
from rmtcli.checkpoint.dtypes import FLOATS
from rmtcli.checkpoint.spill import Stored


@dataclass(frozen=True, slots=True, eq=False)
class Tucker:
    """The product of a kernel between r channels and a 1 × 1 convolution to them.

    Three convolutions after each other, of 1 × 1, of the kernel's size and of 1 × 1, are two: the
    first and the second one together have a kernel of r × in, Σ_b mid[a, b] · down[b].

    Attributes:
        mid: r × r × kernel, ``lora_mid``.
        down: r × in × 1 × …, ``lora_down``.

    Raises:
        ValueError: the two do not fit together.
    """

    mid: Stored
    down: Stored

    def __post_init__(self) -> None:
        mid, down = self.mid.shape, self.down.shape
        fits = len(mid) == len(down) > 2 and mid[1] == down[0] and set(down[2:]) == {1}
        if not fits or not {self.mid.dtype, self.down.dtype} <= FLOATS.keys():
            raise ValueError(f"has a lora_mid of shape {mid} for a lora_down of {down}")

    @property
    def dtype(self) -> str:
        """Name of the type in safetensors: the product is computed in float32."""
        return "F32"

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape of the product, r × in × kernel."""
        return (self.mid.shape[0], self.down.shape[1], *self.mid.shape[2:])

    @property
    def nbytes(self) -> int:
        """Bytes of the product."""
        return 4 * math.prod(self.shape)

    def read(self) -> RawTensor:
        """The product."""
        mid, down = (decode(part.read()).astype(np.float32) for part in (self.mid, self.down))
        kernels = np.tensordot(mid, down.reshape(down.shape[:2]), axes=(1, 0))
        return encode(np.moveaxis(kernels, -1, 1), "F32")
