"""First and second moments of a layer's inputs and output gradients."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from rmtcli.arrays import FloatArray


@dataclass(frozen=True, slots=True, eq=False)
class Moments:
    """What one layer y = Wx + b saw during calibration.

    Attributes:
        rows: inputs seen; a layer that runs over positions, or twice, sees several a sample.
        samples: samples that went through the network.
        mean: shape (in,), E[x].
        second: shape (in, in), E[x xᵀ], not centred.
        gradient: shape (out, out), E[g gᵀ] of the output gradients g, or None.
    """

    rows: int
    samples: int
    mean: FloatArray
    second: FloatArray
    gradient: FloatArray | None

    @property
    def covariance(self) -> FloatArray:
        """Shape (in, in), E[(x − E[x])(x − E[x])ᵀ]."""
        return self.second - np.outer(self.mean, self.mean)

    @property
    def shapes(self) -> tuple[tuple[int, ...] | None, ...]:
        """Shapes of mean, second moment and gradients' moment, None where that is missing."""
        arrays = (self.mean, self.second, self.gradient)
        return tuple(None if array is None else array.shape for array in arrays)

    @property
    def uses(self) -> float:
        """How often a sample runs through the layer."""
        return self.rows / self.samples


def merge(parts: Sequence[Moments]) -> Moments:
    """Moments of one weight that several modules share, each of which saw its own inputs.

    One part comes back as it is: layers that read the same tensor go on sharing its arrays.
    """
    if len(parts) == 1:
        return parts[0]
    rows = sum(part.rows for part in parts)
    shares = [part.rows / rows for part in parts]

    def mean(values: Sequence[FloatArray]) -> FloatArray:
        return np.asarray(sum(s * v for s, v in zip(shares, values, strict=True)))

    gradients = [part.gradient for part in parts if part.gradient is not None]
    return Moments(
        rows,
        parts[0].samples,
        mean([part.mean for part in parts]),
        mean([part.second for part in parts]),
        mean(gradients) if len(gradients) == len(parts) else None,
    )
