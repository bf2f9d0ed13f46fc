"""Keep a share of the squared Frobenius norm."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from rmtcli.edges import EdgeFit
from rmtcli.keep.base import KEEP_RULES, check_share
from rmtcli.spectra import Spectrum


@KEEP_RULES.register("energy")
@dataclass(frozen=True, slots=True)
class Energy:
    """Keep a share of the energy Σ sᵢ², the usual rule of truncated SVD.

    It has no model of the noise.

    Attributes:
        fraction: share of Σ sᵢ² to keep.
    """

    fraction: float

    def __post_init__(self) -> None:
        check_share("fraction", self.fraction)

    def rank(self, spectrum: Spectrum, fit: EdgeFit) -> int:
        """Return the smallest rank whose eigenvalues sum to at least ``fraction`` of all."""
        kept = np.cumsum(spectrum.eigenvalues[::-1])
        if self.fraction == 0 or kept[-1] == 0:
            return 0
        return int(np.searchsorted(kept, self.fraction * kept[-1])) + 1
