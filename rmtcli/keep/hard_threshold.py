"""The optimal hard threshold for noise of unknown level (Gavish and Donoho, 2014)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from rmtcli.edges import EdgeFit
from rmtcli.edges.median import median_variance
from rmtcli.keep.base import KEEP_RULES
from rmtcli.law.hard_threshold import optimal_threshold
from rmtcli.spectra import Spectrum


@KEEP_RULES.register("hard-threshold")
@dataclass(frozen=True, slots=True)
class HardThreshold:
    """Keep singular values s > ω(γ) · median(s), whichever estimator fitted the edge."""

    reference: ClassVar[str] = "Gavish and Donoho (2014), equation 11"

    def rank(self, spectrum: Spectrum, fit: EdgeFit) -> int:
        """Count eigenvalues above λ*(γ)² σ², with σ² from the median.

        In singular values, that is ω(γ) · median(s) with ω(γ) = λ*(γ)/√(median of the law).
        """
        return spectrum.count_above(optimal_threshold(spectrum.gamma) * median_variance(spectrum))
