"""What an adapter is, whatever its file format."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path
from typing import Any

import numpy as np

from rmtcli.arrays import FloatArray
from rmtcli.checkpoint import Checkpoint, RawTensor, decode
from rmtcli.checkpoint.dtypes import FLOATS
from rmtcli.checkpoint.special import special_values
from rmtcli.checkpoint.spill import Stored
from rmtcli.errors import CheckpointError


class Style(StrEnum):
    """The formats of adapters."""

    PEFT = "peft"
    KOHYA = "kohya"


class Kind(StrEnum):
    """What an adapted module does with its weight."""

    LINEAR = "linear"
    CONVOLUTION = "convolution"
    EMBEDDING = "embedding"


@dataclass(frozen=True, slots=True, eq=False)
class AdaptedLayer:
    """The low-rank change of one module's weight, ΔW = :attr:`scale` · B A.

    The product is what is added to the weight as torch's ``Linear`` and ``Conv2d`` store it. To an
    embedding's table, and to the weight of transformers' ``Conv1D``, its transpose is added.

    Attributes:
        module: the full name of the module, as the adapter's file has it.
        left: B, out × r; of a convolution, out × r × 1 × ….
        right: A, r × in; of a convolution, r × in × kernel.
        alpha: the numerator of the scale.
        rslora: whether the scale is alpha/√r (Kalajdzievski, 2023) in place of alpha/r.
        kind: what the module is.
        magnitude: DoRA's norms of the rows of W + ΔW (Liu et al., 2024), or None. With them, the
            weight is W + ΔW with its rows scaled to these norms.

    Raises:
        ValueError: the factors do not fit together, or alpha is not finite; with the module's name.
    """

    module: str
    left: Stored
    right: Stored
    alpha: float
    rslora: bool = False
    kind: Kind = Kind.LINEAR
    magnitude: Stored | None = None

    def __post_init__(self) -> None:
        if problem := self._problem():
            raise ValueError(f"'{self.module}' {problem}")

    def _problem(self) -> str:
        """What is wrong with the factors, as the rest of a sentence about the module; or empty."""
        left, right = self.left.shape, self.right.shape
        axes = len(right) if self.kind is Kind.CONVOLUTION else 2
        stored = (self.left, self.right) + ((self.magnitude,) if self.magnitude else ())
        unknown = next((part.dtype for part in stored if part.dtype not in FLOATS), None)
        if unknown is not None:
            return f"has factors of type {unknown}: save them as float32, float16 or bfloat16"
        if len(left) != axes or len(right) != axes or any(side != 1 for side in left[2:]):
            return f"has factors of shapes {left} and {right}, which are no {self.kind} layer's"
        if left[1] != right[0]:
            return f"has factors of ranks {right[0]} and {left[1]}: they are not of one adapter"
        if 0 in (*left, *right):
            return f"has an empty factor, of shapes {left} and {right}: train or download it again"
        counts = (*self.shape, right[1])  # of a convolution, also its input channels
        if self.magnitude is not None and math.prod(self.magnitude.shape) not in counts:
            return f"has {math.prod(self.magnitude.shape)} magnitudes for {self.shape[0]} outputs"
        return "" if math.isfinite(self.alpha) else f"has an alpha of {self.alpha}"

    @property
    def rank(self) -> int:
        """The number r of directions; it may exceed the sides of the layer."""
        return self.right.shape[0]

    @property
    def shape(self) -> tuple[int, int]:
        """(out, in) of ΔW as a matrix; a convolution's kernel is flattened into the inputs."""
        return self.left.shape[0], math.prod(self.right.shape[1:])

    @property
    def scale(self) -> float:
        """The factor of B A, computed as PEFT and sd-scripts compute it."""
        return self.alpha / (math.sqrt(self.rank) if self.rslora else self.rank)

    @property
    def nbytes(self) -> int:
        """Bytes of the factors and magnitudes."""
        extra = 0 if self.magnitude is None else self.magnitude.nbytes
        return self.left.nbytes + self.right.nbytes + extra

    @property
    def by_input(self) -> bool:
        """Whether the magnitudes are those of the inputs, 1 × in × …, as in files of LyCORIS."""
        sides = () if self.magnitude is None else self.magnitude.shape
        return len(sides) > 1 and sides[:2] == (1, self.right.shape[1]) and self.shape[0] != 1

    def factors(self) -> tuple[FloatArray, FloatArray]:
        """B, out × r, and A, r × in, in float64: exact values, without the scale.

        Raises:
            CheckpointError: a value is NaN or infinite.
        """
        left, right = (decode(_finite(self.module, x)) for x in (self.left, self.right))
        flat = (factor.reshape(len(factor), -1) for factor in (left, right))
        left, right = (np.asarray(factor, dtype=np.float64) for factor in flat)
        return left, right

    def check_finite(self) -> None:
        """Check the factors and magnitudes.

        Raises:
            CheckpointError: a value is NaN or infinite.
        """
        for stored in (self.left, self.right, self.magnitude):
            if stored is not None:
                _finite(self.module, stored)


def _finite(module: str, stored: Stored) -> RawTensor:
    """A factor, whose values are all finite.

    Raises:
        CheckpointError: one is not.
    """
    raw = stored.read()
    if any(special_values(raw)):
        raise CheckpointError(f"'{module}' has a factor with values that are NaN or infinite")
    return raw


@dataclass(frozen=True, slots=True, eq=False)
class Adapter:
    """Low-rank changes of a network's layers.

    Attributes:
        path: the file or directory that it was read from, or that messages should name.
        layers: the changes, in the order of the file.
        style: the format that it was read from, and that it is written in by default.
        saved: tensors that replace the base's own, by their full names in the base: those of
            modules that were trained whole (``modules_to_save``), biases, and embeddings.
        base: name or path of the base model, if known.
        config: PEFT's configuration as it was read. Entries that follow from the layers are written
            from these: ranks, alphas, and, if it has none, ``target_modules``.
        metadata: the text in the header of the file.
        source: the file that the tensors are read from, if they are read later.
    """

    path: Path
    layers: tuple[AdaptedLayer, ...]
    style: Style = Style.PEFT
    saved: Mapping[str, Stored] = field(default_factory=dict)
    base: str | None = None
    config: Mapping[str, Any] = field(default_factory=dict)
    metadata: Mapping[str, str] = field(default_factory=dict)
    source: Checkpoint | None = None

    @property
    def dora(self) -> bool:
        """Whether it has magnitudes."""
        return any(layer.magnitude is not None for layer in self.layers)

    @property
    def nbytes(self) -> int:
        """Bytes of all tensors."""
        saved = sum(stored.nbytes for stored in self.saved.values())
        return saved + sum(layer.nbytes for layer in self.layers)
