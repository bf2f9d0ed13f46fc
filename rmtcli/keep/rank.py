"""Keep the same number of singular values in every layer."""

from __future__ import annotations

from dataclasses import dataclass

from rmtcli.edges import EdgeFit
from rmtcli.keep.base import KEEP_RULES, check_count
from rmtcli.spectra import Spectrum


@KEEP_RULES.register("rank")
@dataclass(frozen=True, slots=True)
class Rank:
    """A fixed rank.

    Attributes:
        k: singular values to keep.
    """

    k: int

    def __post_init__(self) -> None:
        check_count("k", self.k)

    def rank(self, spectrum: Spectrum, fit: EdgeFit) -> int:
        """k, or p where a layer has no more."""
        return min(self.k, spectrum.p)
