"""The Dyson equaliser: rows and columns that differ in noise (Landa and Kluger, 2025)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from rmtcli.edges.base import EDGES, EdgeFit, Noise, Weight, check_shares
from rmtcli.edges.bema import Bema
from rmtcli.edges.judge import MAX_DISTANCE, WINDOW, judge, low_rank
from rmtcli.edges.variances import dyson_variances
from rmtcli.law.fluctuations import window_error
from rmtcli.law.separable import Separable
from rmtcli.spectra import Spectrum, spectrum, tall

#: Refits of the equalised bulk; it stops by itself when no more spikes are found.
_REFITS = 20


@EDGES.register("dyson")
@dataclass(frozen=True, slots=True)
class Dyson:
    """Estimate each row's and column's noise, and put the edge where such noise ends.

    The paper divides the variances out and counts spikes of what results. That count says nothing
    about which singular values of the weight itself to keep, so here the divided weight serves for
    sigma and for the fit alone, and the edge is that of the separable law (Couillet and Hachem,
    2014) in units of the weight.

    Attributes:
        beta: chance that pure noise exceeds the edge.
        max_distance: largest Kolmogorov–Smirnov distance of a fit that holds, after the variances
            were divided out.
    """

    beta: float = 0.1
    max_distance: float = MAX_DISTANCE
    reference: ClassVar[str] = "Landa and Kluger (2025), algorithm 1; Couillet and Hachem (2014)"

    def __post_init__(self) -> None:
        check_shares(WINDOW, self.beta, self.max_distance)

    def fit(self, spectrum: Spectrum, weight: Weight) -> EdgeFit:
        """Variances, then sigma of the equalised weight, then the edge of the separable law."""
        if (fit := low_rank(spectrum)) is not None:
            return fit
        bema = Bema(beta=self.beta, refits=_REFITS)
        variances = dyson_variances(weight, spectrum)
        equal = _equalised(weight, variances.rows, variances.columns)
        sigma, removed = bema.sigma(equal)
        if sigma == 0:  # low-rank, and its spikes were more than half of the eigenvalues
            return bema.fit(spectrum, weight)
        law = Separable(sigma**2 * variances.rows, variances.columns)
        compared = Spectrum(equal.eigenvalues / sigma**2, equal.n, equal.p)
        return judge(
            spectrum,
            weight,
            sigma,
            beta=self.beta,
            sigma_error=sigma * window_error(equal.gamma, equal.p, WINDOW),
            max_distance=self.max_distance,
            removed=removed,
            noise=Noise(*law.edge()),
            compared=compared,
        )


def _equalised(weight: Weight, rows: np.ndarray, columns: np.ndarray) -> Spectrum:
    w = tall(weight).astype(np.float64)
    w /= np.sqrt(rows)[:, None]
    w /= np.sqrt(columns)
    return spectrum(w)
