"""How long layers take: what was measured, and what a rank is expected to cost."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

#: A layer is called slower where it takes longer by more than what two runs differ by.
_NOISE = 1.05


@dataclass(frozen=True, slots=True)
class Latency:
    """Forward times, dense and as planned, of one batch.

    Attributes:
        batch: rows that each layer is given, and samples that the network is given.
        device: where it ran, such as ``cpu``.
        threads: threads of torch.
        layers: seconds before and after, by layer name, of each layer alone; convolutions and
            recurrent layers are left out.
        network: seconds before and after of the whole network, or None where it was not run.
    """

    batch: int
    device: str
    threads: int
    layers: Mapping[str, tuple[float, float]]
    network: tuple[float, float] | None = None

    @property
    def total(self) -> tuple[float, float]:
        """Seconds of all layers, one after the other, before and after."""
        before, after = zip(*self.layers.values(), strict=True) if self.layers else ((), ())
        return sum(before), sum(after)

    @property
    def ratio(self) -> float | None:
        """Time after as a share of that before: of the network if it was run, else of layers."""
        before, after = self.network or self.total
        return after / before if before else None

    @property
    def slower(self) -> tuple[str, ...]:
        """Layers that take longer than before."""
        return tuple(n for n, (before, after) in self.layers.items() if after > _NOISE * before)


@dataclass(frozen=True, slots=True)
class Times:
    """What a layer's forward pass takes, in seconds.

    Attributes:
        dense: as it is.
        fixed: with two factors, whatever their rank.
        step: for each unit of rank on top.
    """

    dense: float
    fixed: float
    step: float

    @staticmethod
    def fit(dense: float, ranks: Sequence[int], seconds: Sequence[float]) -> Times:
        """A line through measured times, by least relative squares.

        Relative, so that a small rank counts as much as a large one. A line that falls is noise
        about one that is level.

        Args:
            dense: seconds of the layer as it is.
            ranks: at least two ranks that were measured, each different.
            seconds: for each, what the factors took.
        """
        x, y = np.asarray(ranks, np.float64), np.asarray(seconds, np.float64)
        design = np.stack([np.ones_like(x), x], axis=1) / y[:, None]
        fixed, step = np.linalg.lstsq(design, np.ones_like(y), rcond=None)[0]
        if step < 0:
            return Times(dense, float(y.mean()), 0.0)
        if fixed < 0:
            share = x / y
            return Times(dense, 0.0, float(share.sum() / (share @ share)))
        return Times(dense, float(fixed), float(step))
