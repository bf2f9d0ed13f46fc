"""The sample moments as they are."""

from __future__ import annotations

from dataclasses import dataclass

from rmtcli.arrays import FloatArray
from rmtcli.calibration.clean.base import CLEANERS


@CLEANERS.register("none")
@dataclass(frozen=True, slots=True)
class Raw:
    """Use the sample moments as they are."""

    def clean(self, values: FloatArray, samples: float) -> FloatArray:
        """Return the values unchanged."""
        return values
