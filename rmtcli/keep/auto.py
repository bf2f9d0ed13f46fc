"""The default: keep what stands above the edge, where the fit supports it."""

from __future__ import annotations

from dataclasses import dataclass

from rmtcli.edges import EdgeFit
from rmtcli.keep.base import KEEP_RULES, Untouched
from rmtcli.spectra import Spectrum


@KEEP_RULES.register("auto")
@dataclass(frozen=True, slots=True)
class Auto:
    """The edge rank where the law fits; every other layer is left as it is."""

    def rank(self, spectrum: Spectrum, fit: EdgeFit) -> int | Untouched:
        """The number of spikes, or the verdict that speaks against acting on it."""
        if not fit.verdict.trusted:
            return Untouched[fit.verdict.name]
        return spectrum.count_above(fit.edge) or Untouched.NO_SPIKES
