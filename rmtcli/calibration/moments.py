"""First and second moments of a layer's inputs, and second moments of its output gradients."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from rmtcli.arrays import FloatArray


@dataclass(frozen=True, slots=True, eq=False)
class Moments:
    """Moments of one layer y = Wx + b over the calibration samples.

    Attributes:
        rows: number of inputs; a layer that runs at every position, or twice, has several per
            sample.
        samples: number of samples that went through the network.
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
        """E[(x − E[x])(x − E[x])ᵀ], shape (in, in)."""
        return self.second - np.outer(self.mean, self.mean)

    @property
    def shapes(self) -> tuple[tuple[int, ...] | None, ...]:
        """Shapes of ``mean``, ``second`` and ``gradient``; None for a missing gradient."""
        arrays = (self.mean, self.second, self.gradient)
        return tuple(None if array is None else array.shape for array in arrays)

    @property
    def uses(self) -> float:
        """Number of times that a sample runs through the layer, on average."""
        return self.rows / self.samples


def merge(parts: Sequence[Moments]) -> Moments:
    """Merge the moments of modules that share one weight, each with inputs of its own.

    A single part is returned as it is, so that layers that read the same tensor go on sharing its
    arrays.

    Args:
        parts: moments of the modules; at least one.

    Returns:
        The moments over all inputs; without gradients where a part has none.
    """
    if len(parts) == 1:
        return parts[0]
    rows = sum(part.rows for part in parts)
    shares = [part.rows / rows for part in parts]

    def mean(values: Sequence[FloatArray]) -> FloatArray:
        """Return the mean, weighted by the number of inputs."""
        return np.asarray(sum(s * v for s, v in zip(shares, values, strict=True)))

    gradients = [part.gradient for part in parts if part.gradient is not None]
    return Moments(
        rows,
        parts[0].samples,
        mean([part.mean for part in parts]),
        mean([part.second for part in parts]),
        mean(gradients) if len(gradients) == len(parts) else None,
    )
