"""The default: the estimator that suits the layer, and why."""

from __future__ import annotations

from dataclasses import dataclass, replace

from rmtcli.edges.base import EDGES, EdgeFit, Verdict, Weight, check_shares
from rmtcli.edges.bema import Bema
from rmtcli.edges.dyson import Dyson
from rmtcli.edges.judge import SIGNIFICANT, WINDOW
from rmtcli.edges.kritchman_nadler import KritchmanNadler
from rmtcli.edges.variances import excess_kurtosis
from rmtcli.spectra import Spectrum

#: With fewer eigenvalues, the window of BEMA holds too few of them.
SMALL = 64
#: Refits of the bulk; it stops by itself when no more spikes are found.
REFITS = 20


@EDGES.register("select")
@dataclass(frozen=True, slots=True)
class Select:
    """BEMA; Kritchman–Nadler for small layers, Dyson where rows or columns differ in noise.

    BEMA is refitted without its spikes where what is left then passes for pure noise. Where it does
    not, the bulk holds weak signal: it is fitted as published, with an edge that is higher. The
    aspect ratio plays no part: docs/theory.md shows that none of these depends on it.

    Attributes:
        beta: chance that pure noise exceeds the edge.
        max_distance: largest Kolmogorov–Smirnov distance of a fit that holds, where it is larger
            than pure noise would have it.
    """

    beta: float = 0.1
    max_distance: float = 0.02

    def __post_init__(self) -> None:
        check_shares(WINDOW, self.beta, self.max_distance)

    def fit(self, spectrum: Spectrum, weight: Weight) -> EdgeFit:
        """The selected estimator's fit; ``chosen`` says which, and why."""
        options = {"beta": self.beta, "max_distance": self.max_distance}
        if spectrum.p < SMALL:
            fit = KritchmanNadler(**options).fit(spectrum, weight)
            return replace(fit, chosen=f"kritchman-nadler: fewer than {SMALL} singular values")
        published = Bema(beta=self.beta, max_distance=self.max_distance)
        # Signal has tails of its own, so that only light ones are known to be the noise's.
        tails = min(0.0, excess_kurtosis(weight))
        fit = replace(published, refits=REFITS).fit(spectrum, weight, tails)
        if fit.verdict is Verdict.HETEROSCEDASTIC:
            fit = Dyson(**options).fit(spectrum, weight)
            return replace(fit, chosen="dyson: rows or columns differ in noise")
        if fit.p_value is not None and fit.p_value < SIGNIFICANT:
            fit = published.fit(spectrum, weight)
            return replace(fit, chosen="bema, as published: refits leave no pure noise")
        return replace(fit, chosen="bema with refits: what they leave passes for pure noise")
