"""BEMA: bulk eigenvalue matching analysis (Ke, Ma and Lin, JASA 2023, algorithm 1)."""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import lru_cache
from typing import ClassVar

import numpy as np

from rmtcli.arrays import FloatArray
from rmtcli.edges.base import EDGES, EdgeFit, Noise, Weight, central_window, check_shares
from rmtcli.edges.judge import MAX_DISTANCE, WINDOW, judge, without
from rmtcli.law.fluctuations import window_error
from rmtcli.law.marchenko_pastur import MarchenkoPastur
from rmtcli.spectra import Spectrum


@EDGES.register("bema")
@dataclass(frozen=True, slots=True)
class Bema:
    """Regress the middle eigenvalues on the Marchenko–Pastur quantiles.

    The quantiles are taken at (i + ½)/p. With the paper's i/p the estimate of sigma² is up to
    1.7 % too large at small p; with the half offset it is unbiased to 1e-3.

    Spikes take places among the p eigenvalues, so that the rest is matched to quantiles that are
    too low: at 20 spikes of 512, sigma comes out 2.5 % too large. With ``refits`` the spikes found
    are taken out and the bulk is matched again, as that of a smaller noise matrix, until no more
    are found. The paper has no such step.

    Attributes:
        alpha: share of the eigenvalues left out at each end.
        beta: chance that pure noise exceeds the edge.
        max_distance: largest Kolmogorov–Smirnov distance of a fit that holds, where it is larger
            than pure noise would have it. Shmalo, Jenkins and Krupchytskyi (2023) use 0.1.
        refits: how often, at most, the bulk is fitted again without the spikes found.
    """

    alpha: float = WINDOW
    beta: float = 0.1
    max_distance: float = MAX_DISTANCE
    refits: int = 0
    reference: ClassVar[str] = "Ke, Ma and Lin (2023), JASA, algorithm 1"

    def __post_init__(self) -> None:
        check_shares(self.alpha, self.beta, self.max_distance)
        if self.refits < 0:
            raise ValueError(f"refits must be at least 0, not {self.refits}")

    def fit(self, spectrum: Spectrum, weight: Weight, kurtosis: float = 0.0) -> EdgeFit:
        """sigma² = Σ qᵢ λᵢ / Σ qᵢ² over the central window; the paper has kurtosis 0."""
        sigma, removed = self.sigma(spectrum, kurtosis)
        bulk = without(spectrum, removed)
        return judge(
            spectrum,
            weight,
            sigma,
            beta=self.beta,
            sigma_error=sigma * window_error(bulk.gamma, bulk.p, self.alpha),
            alpha=self.alpha,
            max_distance=self.max_distance,
            removed=removed,
            noise=self._noise(spectrum, sigma, kurtosis),
        )

    def sigma(self, spectrum: Spectrum, kurtosis: float = 0.0) -> tuple[float, int]:
        """The estimate, and how many spikes were taken out for it."""
        removed, sigma = 0, self._match(spectrum)
        for _ in range(self.refits):
            edge = self._noise(spectrum, sigma, kurtosis).edge(self.beta)
            found = min(spectrum.count_above(edge), spectrum.p // 2)
            if found <= removed:
                break
            removed = found
            sigma = self._match(without(spectrum, removed))
        return sigma, removed

    @staticmethod
    def _noise(spectrum: Spectrum, sigma: float, kurtosis: float) -> Noise:
        return Noise.of(MarchenkoPastur(spectrum.gamma, sigma), spectrum.p, kurtosis)

    def _match(self, spectrum: Spectrum) -> float:
        window = central_window(spectrum.p, self.alpha)
        quantiles = _quantiles(spectrum.gamma, spectrum.p, self.alpha)
        middle = spectrum.eigenvalues[window]
        return math.sqrt(float(quantiles @ middle / (quantiles @ quantiles)))


@lru_cache(maxsize=64)
def _quantiles(gamma: float, p: int, alpha: float) -> FloatArray:
    """Of the law with sigma 1, at the places in the window; layers often have one shape."""
    levels = (np.arange(p)[central_window(p, alpha)] + 0.5) / p
    return MarchenkoPastur(gamma).ppf(levels)
