"""ScreeNOT: the threshold of least error, for noise of any spectrum (Donoho et al., 2023)."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from rmtcli.arrays import FloatArray
from rmtcli.edges.base import EDGES, EdgeFit, Weight
from rmtcli.edges.judge import low_rank, unjudged
from rmtcli.edges.median import median_variance
from rmtcli.law.roots import bracketed
from rmtcli.spectra import Spectrum


@EDGES.register("screenot")
@dataclass(frozen=True, slots=True)
class ScreeNot:
    """Take the observed bulk as the noise, correlated or not, and minimise the matrix error.

    The top of the spectrum, where signal may be, is replaced by the shape that any noise has near
    its edge. The threshold has the least squared error (Donoho, Gavish and Romanov, 2023,
    section 3). It lies above the edge of detection, because keeping a weak spike adds more noise
    than signal.

    Attributes:
        bound: largest share of the p directions that the signal may have.
    """

    bound: float = 0.1
    reference: ClassVar[str] = "Donoho, Gavish and Romanov (2023), section 3"

    def __post_init__(self) -> None:
        if not 0 <= self.bound < 0.5:
            raise ValueError(f"bound must be in [0, 0.5), not {self.bound}")

    def fit(self, spectrum: Spectrum, weight: Weight) -> EdgeFit:
        """Solve y d/dy log(φ(y) φ̃(y)) = −4 for the transforms φ and φ̃ of the noise."""
        if (fit := low_rank(spectrum)) is not None:
            return fit
        k = min(math.floor(self.bound * spectrum.p), (spectrum.p - 1) // 2)
        size = float(spectrum.eigenvalues[-1])
        noise = _imputed(np.sqrt(spectrum.eigenvalues / size), k)
        threshold = _optimal(noise, spectrum.gamma)
        variance = median_variance(spectrum)
        return unjudged(spectrum, weight, math.sqrt(variance), threshold**2 * size)


def _imputed(values: FloatArray, k: int) -> FloatArray:
    """Replace the k largest values by a square-root edge through values k + 1 and 2k + 1.

    Args:
        values: shape (p,), singular values, ascending; values are counted from the largest.
        k: how many to replace.
    """
    if k == 0:
        return values
    noise = values.copy()
    gap = values[-k - 1] - values[-2 * k - 1]
    depth = np.arange(k) / k  # 0 for the largest
    noise[::-1][:k] = values[-k - 1] + gap * (1 - depth ** (2 / 3)) / (2 ** (2 / 3) - 1)
    return noise


def _optimal(noise: FloatArray, gamma: float) -> float:
    """Return the optimal threshold, in the unit of the noise singular values.

    With s the noise singular values, φ(y) = mean of y/(y² − s²), φ̃ = γφ + (1 − γ)/y.
    """
    top = float(noise[-1])

    def excess(y: FloatArray) -> FloatArray:
        """Return y d/dy log(φ(y) φ̃(y)) + 4."""
        squares = np.square(y)[:, None]
        gap = squares - noise**2
        phi, slope = y * np.mean(1 / gap, axis=1), -np.mean((squares + noise**2) / gap**2, axis=1)
        other = gamma * phi + (1 - gamma) / y
        other_slope = gamma * slope - (1 - gamma) / y**2
        return np.asarray(y * (slope / phi + other_slope / other) + 4)

    low, high = top * (1 + 1e-9), np.array([2 * top])
    while excess(high)[0] < 0:
        high *= 2
    return float(bracketed(excess, [low], high)[0])
