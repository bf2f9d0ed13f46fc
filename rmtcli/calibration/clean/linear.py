"""Linear shrinkage of the eigenvalues towards their mean."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from rmtcli.arrays import FloatArray
from rmtcli.calibration.clean.base import CLEANERS, towards_mean


@CLEANERS.register("linear")
@dataclass(frozen=True, slots=True)
class Linear:
    """Move eigenvalues towards their mean by the share of their spread that is sampling noise.

    The noise of a moment Ĉ of n samples is E‖Ĉ − C‖² = ((tr C)² + tr C²)/n, so that its estimate is
    ((Σλ)² + Σλ²)/(n + 1), and the spread is Σ(λ − mean)². n comes from the variance between batches
    (:mod:`rmtcli.calibration.spread`), so that dependent tokens do not count as samples.
    """

    reference: ClassVar[str] = "Ledoit and Wolf, J. Multivariate Analysis 88 (2004), section 3"

    def clean(self, values: FloatArray, samples: float) -> FloatArray:
        """Return the eigenvalues moved by the share noise/spread."""
        noise = (values.sum() ** 2 + np.sum(values**2)) / (samples + 1)
        spread = float(np.sum((values - values.mean()) ** 2))
        return towards_mean(values, noise / spread if spread else 1.0)
