"""Sign-flip parallel analysis (Hong, Sheng and Dobriban, 2020)."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from rmtcli.arrays import FloatArray
from rmtcli.edges.base import EDGES, EdgeFit, Weight
from rmtcli.edges.judge import low_rank, unjudged
from rmtcli.spectra import Spectrum, spectrum, tall


@EDGES.register("sign-flip")
@dataclass(frozen=True, slots=True)
class SignFlip:
    """Compare with the same entries under random signs, which destroy signal but not noise.

    Noise under random signs is noise with the same variance in every entry, whatever their pattern.
    A strong signal becomes noise too and hides weaker signals. The spikes are therefore removed and
    the signs of the rest are drawn again, until no more spikes appear. Signs come from a fixed
    seed, so that a weight always has the same edge.

    Attributes:
        beta: chance that pure noise exceeds the edge.
        trials: number of random sign matrices; at least 1/beta − 1.
    """

    beta: float = 0.1
    trials: int = 20
    reference: ClassVar[str] = "Hong, Sheng and Dobriban (2020)"

    def __post_init__(self) -> None:
        if not 0 < self.beta < 1:
            raise ValueError(f"beta must be in (0, 1), not {self.beta}")
        if (self.trials + 1) * self.beta < 1:
            raise ValueError(f"trials must be at least 1/beta - 1, not {self.trials}")

    def fit(self, spectrum: Spectrum, weight: Weight) -> EdgeFit:
        """Take an order statistic of the largest eigenvalues under random signs as the edge."""
        if (fit := low_rank(spectrum)) is not None:
            return fit
        w = _oriented(weight)
        size = float(np.abs(w).max())
        w /= size
        scale = size**2
        values = spectrum.eigenvalues / scale
        basis: FloatArray | None = None
        spikes, rest = 0, w
        full = spectrum.n * spectrum.p
        while True:
            # The spikes that were removed contained noise of their dimensions.
            dimensions = (spectrum.n - spikes) * (spectrum.p - spikes)
            edge = self._edge(rest) * full / dimensions
            above = int(np.count_nonzero(values > edge))
            if above <= spikes or above > spectrum.p // 2:
                break
            spikes = above
            if basis is None:
                basis = np.linalg.eigh(w.T @ w)[1]
            top = basis[:, spectrum.p - spikes :]
            rest = w - (w @ top) @ top.T
        sigma = size * math.sqrt(float(np.sum(rest**2)) / dimensions)
        return unjudged(spectrum, weight, sigma, edge * scale)

    def _edge(self, rest: FloatArray) -> float:
        """Return the 1 − beta order statistic of the largest eigenvalue under random signs."""
        rng = np.random.default_rng(0)
        largest = np.sort(
            [
                spectrum(rest * rng.choice((-1.0, 1.0), rest.shape)).eigenvalues[-1]
                for _ in range(self.trials)
            ]
        )
        order = math.ceil((self.trials + 1) * (1 - self.beta) - 1e-9)
        return float(largest[order - 1])


def _oriented(weight: Weight) -> FloatArray:
    """Return the matrix with its long side first, or, if square, with the more uneven side first.

    Signs are drawn by position, so that a weight and its transpose must give the same matrix.
    """
    w = tall(weight).astype(np.float64)
    if w.shape[0] == w.shape[1]:
        squares = (w / np.abs(w).max()) ** 2
        if squares.sum(axis=1).var() < squares.sum(axis=0).var():
            return np.ascontiguousarray(w.T)
    return w
