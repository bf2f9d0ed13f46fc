"""BEMA: bulk eigenvalue matching analysis (Ke, Ma and Lin, JASA 2023, algorithm 1)."""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import lru_cache
from typing import ClassVar

import numpy as np

from rmtcli.arrays import FloatArray
from rmtcli.edges.base import EDGES, EdgeFit, Noise, Weight, central_window
from rmtcli.edges.judge import judge, without
from rmtcli.edges.options import WindowOptions
from rmtcli.law.fluctuations import window_error
from rmtcli.law.marchenko_pastur import MarchenkoPastur
from rmtcli.spectra import Spectrum


@EDGES.register("bema")
@dataclass(frozen=True, slots=True)
class Bema(WindowOptions):
    """Regress the middle eigenvalues on the Marchenko–Pastur quantiles.

    The quantiles are taken at (i + ½)/p. With the paper's i/p, the estimate of sigma² is up to
    1.7 % too large at small p; with the offset of one half it is unbiased to 1e-3.

    Spikes are counted among the p eigenvalues, so that the others are matched to quantiles that
    are too low: with 20 spikes of 512, sigma comes out 2.5 % too large. With ``refits``, the spikes
    are removed and the bulk is matched again as the spectrum of a smaller noise matrix, until no
    more spikes appear. The paper has no such step.

    Attributes:
        refits: largest number of times that the bulk is fitted again without its spikes; 0, as in
            the paper, by default.
    """

    refits: int = 0
    reference: ClassVar[str] = "Ke, Ma and Lin (2023), JASA, algorithm 1"

    def __post_init__(self) -> None:
        WindowOptions.__post_init__(self)
        if self.refits < 0:
            raise ValueError(f"refits must be at least 0, not {self.refits}")

    def fit(self, spectrum: Spectrum, weight: Weight, kurtosis: float = 0.0) -> EdgeFit:
        """Fit sigma² = Σ qᵢ λᵢ / Σ qᵢ² over the central window, for the law's quantiles qᵢ.

        Args:
            spectrum: the spectrum of ``weight``.
            weight: shape (out, in).
            kurtosis: excess kurtosis of the noise entries; the paper assumes 0.
        """
        sigma, removed = self.sigma(spectrum, kurtosis)
        bulk = without(spectrum, removed)
        return judge(
            spectrum,
            weight,
            sigma,
            self,
            sigma_error=sigma * window_error(bulk.gamma, bulk.p, self.alpha),
            removed=removed,
            noise=self._noise(spectrum, sigma, kurtosis),
        )

    def sigma(self, spectrum: Spectrum, kurtosis: float = 0.0) -> tuple[float, int]:
        """Return the estimate of sigma, and the number of spikes that were removed for it."""
        removed, sigma = 0, self._match(spectrum)
        for _ in range(self.refits):
            edge = self._noise(spectrum, sigma, kurtosis).edge(self.beta)
            spikes = min(spectrum.count_above(edge), spectrum.p // 2)
            if spikes <= removed:
                break
            removed = spikes
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


@lru_cache(maxsize=192)
def _quantiles(gamma: float, p: int, alpha: float) -> FloatArray:
    """Return the quantiles of the law with sigma 1 in the window.

    They are kept for the next calls, because many layers of a network have the same shape. MiniLM's
    need 138, as the spikes that are left out change p.
    """
    levels = (np.arange(p)[central_window(p, alpha)] + 0.5) / p
    return MarchenkoPastur(gamma).ppf(levels)
