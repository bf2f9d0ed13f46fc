"""The default estimator: one of the others, chosen by the layer's size and noise."""

from __future__ import annotations

from dataclasses import dataclass, replace

from rmtcli.edges.base import EDGES, EdgeFit, Verdict, Weight
from rmtcli.edges.bema import Bema
from rmtcli.edges.dyson import Dyson
from rmtcli.edges.judge import SIGNIFICANT
from rmtcli.edges.kritchman_nadler import KritchmanNadler
from rmtcli.edges.options import LawOptions
from rmtcli.edges.variances import excess_kurtosis
from rmtcli.spectra import Spectrum

#: With fewer eigenvalues, too few of them are in BEMA's window.
SMALL = 64
#: Largest number of refits of the bulk; they stop when no more spikes appear.
REFITS = 20


@EDGES.register("select")
@dataclass(frozen=True, slots=True)
class Select(LawOptions):
    """BEMA; Kritchman–Nadler for small layers, Dyson where rows or columns differ in noise.

    BEMA is refitted without its spikes if the remaining bulk passes for pure noise. If it does not,
    weak signal is left in the bulk, and BEMA is used as published, whose edge is higher. The aspect
    ratio plays no part: docs/theory.md shows that no estimator's rate of false spikes depends on
    it.

    Attributes:
        max_distance: Kolmogorov–Smirnov distance up to which a fit counts as near where pure
            noise would fit better; smaller than the published 0.1.
    """

    max_distance: float = 0.02

    def fit(self, spectrum: Spectrum, weight: Weight) -> EdgeFit:
        """Return the fit of the selected estimator; ``chosen`` says which one, and why."""
        options = {"beta": self.beta, "max_distance": self.max_distance}
        if spectrum.p < SMALL:
            fit = KritchmanNadler(**options).fit(spectrum, weight)
            return replace(fit, chosen=f"kritchman-nadler: fewer than {SMALL} singular values")
        published = Bema(beta=self.beta, max_distance=self.max_distance)
        # Signal makes tails heavier, so that only light tails must come from the noise.
        tails = min(0.0, excess_kurtosis(weight, spectrum))
        fit = replace(published, refits=REFITS).fit(spectrum, weight, tails)
        if fit.verdict is Verdict.HETEROSCEDASTIC:
            fit = Dyson(**options).fit(spectrum, weight)
            return replace(fit, chosen="dyson: rows or columns differ in noise")
        if fit.p_value is not None and fit.p_value < SIGNIFICANT:
            fit = published.fit(spectrum, weight)
            return replace(
                fit, chosen="bema, as published: the bulk after refits is not pure noise"
            )
        return replace(fit, chosen="bema with refits: what they leave passes for pure noise")
