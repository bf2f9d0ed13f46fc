"""A threshold relative to the largest singular value (Paul and Nelson, 2021)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from rmtcli.edges import EdgeFit
from rmtcli.keep.base import KEEP_RULES, check_share
from rmtcli.spectra import Spectrum


@KEEP_RULES.register("relative")
@dataclass(frozen=True, slots=True)
class Relative:
    """Keep singular values of at least a share of the largest one.

    Attributes:
        threshold: smallest singular value to keep, as a share of the largest.
    """

    threshold: float
    reference: ClassVar[str] = "Paul and Nelson (2021)"

    def __post_init__(self) -> None:
        check_share("threshold", self.threshold)

    def rank(self, spectrum: Spectrum, fit: EdgeFit) -> int:
        """Return the number of sᵢ ≥ threshold · s₁."""
        values = spectrum.eigenvalues
        return int((values >= self.threshold**2 * values[-1]).sum())
