"""The noise level from the median eigenvalue (Gavish and Donoho, 2014, section III E)."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from rmtcli.edges.base import EDGES, EdgeFit, Weight
from rmtcli.edges.judge import judge
from rmtcli.edges.options import LawOptions
from rmtcli.law.fluctuations import quantile_error
from rmtcli.law.marchenko_pastur import MarchenkoPastur
from rmtcli.spectra import Spectrum


@EDGES.register("median")
@dataclass(frozen=True, slots=True)
class Median(LawOptions):
    """Divide the median eigenvalue by the median of the Marchenko–Pastur law.

    It is cruder than BEMA, since it looks at a single eigenvalue. Its fit is judged on the middle
    60 % of the eigenvalues, so that signal in more than 20 % of the directions is reported.
    """

    reference: ClassVar[str] = "Gavish and Donoho (2014), section III E"

    def fit(self, spectrum: Spectrum, weight: Weight) -> EdgeFit:
        """Fit sigma² = median(λ) / median of the law."""
        sigma = math.sqrt(median_variance(spectrum))
        return judge(
            spectrum,
            weight,
            sigma,
            self,
            sigma_error=sigma * quantile_error(spectrum.gamma, spectrum.p, 0.5),
        )


def median_variance(spectrum: Spectrum) -> float:
    """Return the noise variance at which the median of the law is that of the spectrum."""
    unit = MarchenkoPastur(spectrum.gamma)
    return float(np.median(spectrum.eigenvalues) / unit.ppf(0.5))
