"""Noise level from the median eigenvalue (Gavish and Donoho, 2014, section III E)."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from rmtcli.edges.base import EDGES, EdgeFit, Weight, check_shares
from rmtcli.edges.judge import MAX_DISTANCE, WINDOW, judge
from rmtcli.law.fluctuations import quantile_error
from rmtcli.law.marchenko_pastur import MarchenkoPastur
from rmtcli.spectra import Spectrum


@EDGES.register("median")
@dataclass(frozen=True, slots=True)
class Median:
    """Divide the median eigenvalue by the median of the Marchenko–Pastur law.

    Cruder than BEMA: it looks at one eigenvalue. Like BEMA's, its fit is judged on the middle
    60 %, so signal in more than 20 % of the directions is reported.

    Attributes:
        beta: chance that pure noise exceeds the edge.
        max_distance: largest Kolmogorov–Smirnov distance of a fit that holds, taken over the
            middle 60 % of the eigenvalues.
    """

    beta: float = 0.1
    max_distance: float = MAX_DISTANCE
    reference: ClassVar[str] = "Gavish and Donoho (2014), section III E"

    def __post_init__(self) -> None:
        check_shares(WINDOW, self.beta, self.max_distance)

    def fit(self, spectrum: Spectrum, weight: Weight) -> EdgeFit:
        """sigma² = median(λ) / median of the law."""
        sigma = math.sqrt(median_variance(spectrum))
        return judge(
            spectrum,
            weight,
            sigma,
            beta=self.beta,
            sigma_error=sigma * quantile_error(spectrum.gamma, spectrum.p, 0.5),
            max_distance=self.max_distance,
        )


def median_variance(spectrum: Spectrum) -> float:
    """The noise variance at which the law's median is the spectrum's, in eigenvalue units."""
    unit = MarchenkoPastur(spectrum.gamma)
    return float(np.median(spectrum.eigenvalues) / unit.ppf(0.5))
