"""Noise level from the median eigenvalue (Gavish and Donoho, 2014, section III E)."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from rmtcli.edges.base import EDGES, EdgeFit, check_shares, judge
from rmtcli.law.marchenko_pastur import MarchenkoPastur
from rmtcli.spectrum import Spectrum


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
    max_distance: float = 0.1

    def __post_init__(self) -> None:
        check_shares(_WINDOW, self.beta, self.max_distance)

    def fit(self, spectrum: Spectrum) -> EdgeFit:
        """sigma² = median(λ) / median of the law."""
        return judge(
            spectrum,
            math.sqrt(median_variance(spectrum)),
            alpha=_WINDOW,
            beta=self.beta,
            max_distance=self.max_distance,
        )


#: Share of the eigenvalues left out at each end when the fit is judged.
_WINDOW = 0.2


def median_variance(spectrum: Spectrum) -> float:
    """The noise variance at which the law's median is the spectrum's, in eigenvalue units."""
    unit = MarchenkoPastur(spectrum.gamma)
    return float(np.median(spectrum.eigenvalues) / unit.ppf(0.5))
