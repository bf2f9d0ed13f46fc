"""Linear shrinkage of the eigenvalues towards their mean."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from rmtcli.calibration.clean.base import CLEANERS, Shrinkage


@CLEANERS.register("linear")
@dataclass(frozen=True, slots=True)
class Linear(Shrinkage):
    """Move eigenvalues towards their mean by the share of their spread that is sampling noise.

    The noise of a moment Ĉ of n samples is E‖Ĉ − C‖² = ((tr C)² + tr C²)/n, so that its estimate is
    ((Σλ)² + Σλ²)/(n + 1), and the spread is Σ(λ − mean)². n comes from the variance between batches
    (:mod:`rmtcli.calibration.spread`), so that dependent tokens do not count as samples.
    """

    reference: ClassVar[str] = "Ledoit and Wolf, J. Multivariate Analysis 88 (2004), section 3"

    def share(self, size: int, total: float, squares: float, samples: float) -> float:
        """Return the share noise/spread."""
        noise = (total**2 + squares) / (samples + 1)
        spread = squares - total**2 / size
        return noise / spread if spread > 0 else 1.0
