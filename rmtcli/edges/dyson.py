"""The Dyson equaliser: rows and columns that differ in noise (Landa and Kluger, 2025)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from rmtcli.edges.base import EDGES, EdgeFit, Noise, Weight
from rmtcli.edges.bema import Bema
from rmtcli.edges.judge import judge, low_rank
from rmtcli.edges.options import LawOptions
from rmtcli.edges.variances import dyson_variances
from rmtcli.law.fluctuations import window_error
from rmtcli.law.separable import Separable
from rmtcli.spectra import Spectrum, scaled_spectrum

#: Largest number of refits of the equalised bulk; they stop when no more spikes appear.
_REFITS = 20


@EDGES.register("dyson")
@dataclass(frozen=True, slots=True)
class Dyson(LawOptions):
    """Estimate the noise of each row and column, and put the edge where such noise ends.

    The paper divides the variances out and counts the spikes of the result. That count does not
    say which singular values of the weight itself to keep. Here the divided weight serves only to
    estimate sigma and to judge the fit, and the edge is that of the separable law (Couillet and
    Hachem, 2014) in units of the weight.
    """

    reference: ClassVar[str] = "Landa and Kluger (2025), algorithm 1; Couillet and Hachem (2014)"

    def fit(self, spectrum: Spectrum, weight: Weight) -> EdgeFit:
        """Estimate the variances, then sigma of the equalised weight, then the edge."""
        if (fit := low_rank(spectrum)) is not None:
            return fit
        bema = Bema(beta=self.beta, refits=_REFITS)
        variances = dyson_variances(weight, spectrum)
        equal = scaled_spectrum(weight, 1 / np.sqrt(variances.rows), 1 / np.sqrt(variances.columns))
        sigma, removed = bema.sigma(equal)
        if sigma == 0:  # low-rank, and its spikes were more than half of the eigenvalues
            return bema.fit(spectrum, weight)
        law = Separable(sigma**2 * variances.rows, variances.columns)
        compared = Spectrum(equal.eigenvalues / sigma**2, equal.n, equal.p)
        return judge(
            spectrum,
            weight,
            sigma,
            self,
            sigma_error=sigma * window_error(equal.gamma, equal.p, self.alpha),
            removed=removed,
            noise=Noise(*law.edge()),
            compared=compared,
        )
