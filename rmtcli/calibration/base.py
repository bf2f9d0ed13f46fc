"""What to calibrate on. Nothing here needs torch."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from rmtcli.errors import UsageError

#: Metric -> whether it uses output gradients.
METRICS = {"two-sided": True, "one-sided": False}


@dataclass(frozen=True, slots=True)
class Calibration:
    """How to find out what the layers see.

    Attributes:
        data: file with inputs to calibrate on: its ``train_inputs`` if it has any, else its
            ``inputs``.
        metric: ``two-sided`` (inputs and output gradients) or ``one-sided`` (inputs).
        batch: samples that run through the network at a time.
    """

    data: str | Path | None = None
    metric: str = "two-sided"
    batch: int = 256

    def __post_init__(self) -> None:
        if self.metric not in METRICS:
            known = ", ".join(METRICS)
            raise UsageError(f"unknown metric '{self.metric}': choose one of {known}")
        if self.batch < 1:
            raise UsageError(f"a calibration batch holds at least 1 sample, not {self.batch}")

    @property
    def gradients(self) -> bool:
        """Whether output gradients are collected."""
        return METRICS[self.metric]
