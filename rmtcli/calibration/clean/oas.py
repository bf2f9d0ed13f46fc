"""The oracle-approximating shrinkage of Gaussian samples."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from rmtcli.calibration.clean.base import CLEANERS, Shrinkage


@CLEANERS.register("oas")
@dataclass(frozen=True, slots=True)
class Oas(Shrinkage):
    """Move eigenvalues towards their mean by the share that is best for Gaussian samples."""

    reference: ClassVar[str] = (
        "Chen, Wiesel, Eldar and Hero, IEEE Trans. Signal Processing 58 (2010), equation 23"
    )

    def share(self, size: int, total: float, squares: float, samples: float) -> float:
        """Return the oracle-approximating share."""
        spread = squares - total**2 / size
        if spread <= 0:
            return 1.0
        noise = ((1 - 2 / size) * squares + total**2) / (samples + 1 - 2 / size)
        return noise / spread
