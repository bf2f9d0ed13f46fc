"""The oracle-approximating shrinkage of Gaussian samples."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from rmtcli.arrays import FloatArray
from rmtcli.calibration.clean.base import CLEANERS, towards_mean


@CLEANERS.register("oas")
@dataclass(frozen=True, slots=True)
class Oas:
    """Move eigenvalues towards their mean by the share that is best for Gaussian samples."""

    reference: ClassVar[str] = (
        "Chen, Wiesel, Eldar and Hero, IEEE Trans. Signal Processing 58 (2010), equation 23"
    )

    def clean(self, values: FloatArray, samples: float) -> FloatArray:
        """Return the eigenvalues moved by the oracle-approximating share."""
        p, squares, square = len(values), float(np.sum(values**2)), float(values.sum()) ** 2
        spread = squares - square / p
        if spread <= 0:
            return towards_mean(values, 1.0)
        noise = ((1 - 2 / p) * squares + square) / (samples + 1 - 2 / p)
        return towards_mean(values, noise / spread)
