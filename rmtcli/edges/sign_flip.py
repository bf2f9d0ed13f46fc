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
    """Compare with the same entries under random signs, which leave noise and no signal.

    Flipped noise is noise of the same variances, entry by entry, whatever their pattern. A strong
    signal is flipped into noise as well and hides weaker ones, so what was found is taken out and
    the rest flipped again until no more is found. Signs come from a fixed seed: the same weight
    has the same edge.

    Attributes:
        beta: chance that pure noise exceeds the edge.
        trials: how many times signs are drawn; at least 1/beta − 1.
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
        """The edge is an order statistic of the largest eigenvalues under random signs."""
        if (fit := low_rank(spectrum)) is not None:
            return fit
        w = _upright(weight)
        size = float(np.abs(w).max())
        w /= size
        scale = size**2
        values = spectrum.eigenvalues / scale
        basis: FloatArray | None = None
        spikes, rest = 0, w
        full = spectrum.n * spectrum.p
        while True:
            # What was taken out held noise of its dimensions as well.
            dimensions = (spectrum.n - spikes) * (spectrum.p - spikes)
            edge = self._edge(rest) * full / dimensions
            found = int(np.count_nonzero(values > edge))
            if found <= spikes or found > spectrum.p // 2:
                break
            spikes = found
            if basis is None:
                basis = np.linalg.eigh(w.T @ w)[1]
            top = basis[:, spectrum.p - spikes :]
            rest = w - (w @ top) @ top.T
        sigma = size * math.sqrt(float(np.sum(rest**2)) / dimensions)
        return unjudged(spectrum, weight, sigma, edge * scale)

    def _edge(self, rest: FloatArray) -> float:
        rng = np.random.default_rng(0)
        largest = np.sort(
            [
                spectrum(rest * rng.choice((-1.0, 1.0), rest.shape)).eigenvalues[-1]
                for _ in range(self.trials)
            ]
        )
        place = math.ceil((self.trials + 1) * (1 - self.beta) - 1e-9)
        return float(largest[place - 1])


def _upright(weight: Weight) -> FloatArray:
    """Long side first; a square with the side first whose norms differ more.

    Signs are drawn for places, so that a weight and its transpose must come to the same matrix.
    """
    w = tall(weight).astype(np.float64)
    if w.shape[0] == w.shape[1]:
        squares = (w / np.abs(w).max()) ** 2
        if squares.sum(axis=1).var() < squares.sum(axis=0).var():
            return np.ascontiguousarray(w.T)
    return w
