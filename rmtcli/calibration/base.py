"""Settings of a calibration. Nothing here needs torch."""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rmtcli.calibration.clean import CLEANERS
from rmtcli.calibration.given import given_inputs
from rmtcli.calibration.reliability import Reliability
from rmtcli.calibration.source import NONE, Data
from rmtcli.errors import UsageError

#: Name of a metric -> whether it uses output gradients.
METRICS = {"two-sided": True, "one-sided": False}


@dataclass(frozen=True, slots=True)
class Calibration:
    """Settings of a calibration.

    Attributes:
        data: file with calibration inputs: its ``train_inputs`` if it has any, else its
            ``inputs``; or ``tokens`` with options, for random tokens of a directory's vocabulary;
            or ``none``, for no inputs where some would be used by default. Or the inputs as Python
            has them: arrays, a DataLoader, batches of a tokenizer, texts.
        metric: ``two-sided`` (inputs and output gradients) or ``one-sided`` (inputs alone).
        batch: number of samples that run through the network at a time.
        stats: file of moments, which is read if it exists and written otherwise.
        sequential: whether each layer is fitted again on the outputs of the compressed layers
            before it, with the dense network's outputs as the target.
        heal: number of passes over the inputs in which the new tensors are trained to give the
            dense network's outputs.
        heal_minutes: wall-clock time for this training. Without passes it ends then; with both,
            at the first of the two limits.
        spill: folder for the states, moments and decompositions of a directory's network, which
            then runs block by block, and is healed block by block. A run that was interrupted goes
            on from what is there; the folder is emptied once the output is written. The workers of
            a cluster must reach it under the same path.
        clean: how the moments' eigenvalues are cleaned of sampling noise, such as ``"none"``.
    """

    data: Any = None
    metric: str = "two-sided"
    batch: int = 256
    stats: str | Path | None = None
    sequential: bool = False
    heal: int = 0
    heal_minutes: float = 0.0
    clean: str = "linear"
    spill: str | Path | None = None

    def __post_init__(self) -> None:
        if self.data is not None and not isinstance(self.data, Data):
            object.__setattr__(self, "data", given_inputs(self.data))
        if isinstance(self.data, Path) and str(self.data) == NONE:  # from the command line
            object.__setattr__(self, "data", NONE)
        if self.metric not in METRICS:
            known = ", ".join(METRICS)
            raise UsageError(f"unknown metric '{self.metric}': choose one of {known}")
        CLEANERS.parse(self.clean)
        if self.batch < 1:
            raise UsageError(f"a calibration batch holds at least 1 sample, not {self.batch}")
        if self.heal < 0:
            raise UsageError(f"healing takes at least 0 passes, not {self.heal}")
        if not 0 <= self.heal_minutes < math.inf:
            raise UsageError(f"healing takes at least 0 minutes, not {self.heal_minutes}")

    @property
    def refines(self) -> bool:
        """Whether the new tensors change after ranks or widths are known."""
        return self.sequential or self.heals

    @property
    def heals(self) -> bool:
        """Whether the new tensors are trained."""
        return self.heal > 0 or self.heal_minutes > 0

    @property
    def healing(self) -> str:
        """How long the new tensors are trained, in words; empty if they are not."""
        passes = "1 pass" if self.heal == 1 else f"{self.heal} passes"
        minutes = "1 minute" if self.heal_minutes == 1 else f"{self.heal_minutes:g} minutes"
        limits = (passes if self.heal else "", minutes if self.heal_minutes else "")
        return " or ".join(filter(None, limits))

    @property
    def gradients(self) -> bool:
        """Whether output gradients are collected."""
        return METRICS[self.metric]


@dataclass(frozen=True, slots=True)
class Calibrated:
    """Record of a finished calibration.

    Attributes:
        settings: its settings.
        samples: number of samples that went through the network.
        bytes: memory that the moments take.
        undone: refinements that were undone because they did not help: ``sequential``, ``heal``.
        reliability: how far the moments can be trusted; None before ranks are known.
    """

    settings: Calibration
    samples: int
    bytes: int
    undone: tuple[str, ...] = ()
    reliability: Reliability | None = None
