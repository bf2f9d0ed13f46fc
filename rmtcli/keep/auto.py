"""The default rule: keep the spikes of layers whose fit is trusted."""

from __future__ import annotations

from dataclasses import dataclass

from rmtcli.edges import EdgeFit
from rmtcli.keep.base import KEEP_RULES, Untouched
from rmtcli.spectra import Spectrum


@KEEP_RULES.register("auto")
@dataclass(frozen=True, slots=True)
class Auto:
    """Keep the spikes where the law fits; leave every other layer as it is.

    Without data, ``prune`` tries the result before it believes it (pipeline/tried.py).
    """

    def rank(self, spectrum: Spectrum, fit: EdgeFit) -> int | Untouched:
        """Return the number of spikes, or the verdict that forbids acting on it."""
        if not fit.verdict.trusted:
            return Untouched[fit.verdict.name]
        return spectrum.count_above(fit.edge) or Untouched.NO_SPIKES
