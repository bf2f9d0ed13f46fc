"""Keep the singular values above the edge (Shmalo, Jenkins and Krupchytskyi, 2023)."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar

from rmtcli.edges import EdgeFit
from rmtcli.keep.base import KEEP_RULES, check_count, check_share
from rmtcli.spectra import Spectrum


@KEEP_RULES.register("edge")
@dataclass(frozen=True, slots=True)
class Edge:
    """Keep all spikes, and a share of the values below the edge.

    It acts whatever the verdict on the fit; ``auto`` is the rule that obeys the verdict.

    Attributes:
        below: share of the singular values below the edge that is kept too, largest first.
        at_least: smallest rank, such as the number of classes.
    """

    below: float = 0.0
    at_least: int = 1
    reference: ClassVar[str] = "Shmalo, Jenkins and Krupchytskyi (2023), arXiv 2303.08986"

    def __post_init__(self) -> None:
        check_share("below", self.below)
        check_count("at_least", self.at_least)

    def rank(self, spectrum: Spectrum, fit: EdgeFit) -> int:
        """Return spikes + ⌈below · (p − spikes)⌉, at least ``at_least``."""
        spikes = spectrum.count_above(fit.edge)
        # A product such as 0.07 · 100 is a rounding error above the whole number.
        extra = math.ceil(self.below * (spectrum.p - spikes) - 1e-9)
        return min(max(spikes + extra, self.at_least), spectrum.p)
