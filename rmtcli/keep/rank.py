"""Keep one number of singular values in every layer."""

from __future__ import annotations

from dataclasses import dataclass

from rmtcli.edges import EdgeFit
from rmtcli.keep.base import KEEP_RULES, check_count
from rmtcli.spectra import Spectrum


@KEEP_RULES.register("rank")
@dataclass(frozen=True, slots=True)
class Rank:
    """Keep a fixed number of singular values in every layer.

    Attributes:
        k: number of singular values to keep.
    """

    k: int

    def __post_init__(self) -> None:
        check_count("k", self.k)

    def rank(self, spectrum: Spectrum, fit: EdgeFit) -> int:
        """Return k, or p where the layer has fewer singular values."""
        return min(self.k, spectrum.p)
