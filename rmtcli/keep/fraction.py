"""Keep one share of the singular values in every layer."""

from __future__ import annotations

import math
from dataclasses import dataclass

from rmtcli.edges import EdgeFit
from rmtcli.keep.base import KEEP_RULES, check_share
from rmtcli.spectra import Spectrum


@KEEP_RULES.register("fraction")
@dataclass(frozen=True, slots=True)
class Fraction:
    """Keep one share of the singular values in every layer, as a baseline for other rules.

    Attributes:
        of: share of the p singular values to keep.
    """

    of: float

    def __post_init__(self) -> None:
        check_share("of", self.of)

    def rank(self, spectrum: Spectrum, fit: EdgeFit) -> int:
        """Return ⌈of · p⌉."""
        # A product such as 0.07 · 100 is a rounding error above the whole number.
        return math.ceil(self.of * spectrum.p - 1e-9)
