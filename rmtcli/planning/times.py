"""How long layers take: measured times, and the expected time of factors of a rank."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

#: Ratio by which two runs of one layer may differ: above it, one counts as slower.
NOISE = 1.05


@dataclass(frozen=True, slots=True)
class Timing:
    """How long something took when it was repeated, in seconds.

    Attributes:
        median: half of the repetitions took less.
        low: a quarter of them took less.
        high: a quarter of them took more.
    """

    median: float
    low: float
    high: float

    @staticmethod
    def of(seconds: Sequence[float]) -> Timing:
        """The median and the quartiles of some repetitions."""
        low, median, high = np.quantile(seconds, (0.25, 0.5, 0.75)).tolist()
        return Timing(median, low, high)

    @staticmethod
    def sum(timings: Iterable[Timing]) -> Timing:
        """The time of things that run in sequence, all of them slow or fast at the same time."""
        parts = list(timings)
        return Timing(
            sum(part.median for part in parts),
            sum(part.low for part in parts),
            sum(part.high for part in parts),
        )

    def differs(self, other: Timing) -> bool:
        """Whether the middle halves of the repetitions have nothing in common."""
        return self.low > other.high or other.low > self.high


@dataclass(frozen=True, slots=True)
class Latency:
    """Times of forward passes at one batch size, of the dense layers and of the planned ones.

    Attributes:
        batch: number of samples. A layer that was calibrated is run on as many rows as it has of
            them, such as the tokens of so many texts; any other on one per sample.
        device: where they ran, such as ``cpu``.
        threads: number of threads of torch.
        layers: times before and after, by layer name, of each layer on its own; convolutions and
            recurrent layers are left out.
        network: times before and after of the whole network, or None if it was not run.
    """

    batch: int
    device: str
    threads: int
    layers: Mapping[str, tuple[Timing, Timing]]
    network: tuple[Timing, Timing] | None = None

    @property
    def total(self) -> tuple[Timing, Timing]:
        """Times of all layers in sequence, before and after."""
        before, after = zip(*self.layers.values(), strict=True) if self.layers else ((), ())
        return Timing.sum(before), Timing.sum(after)

    @property
    def ratio(self) -> float | None:
        """Time after / time before, of the network if it was run, else of the layers."""
        before, after = self.network or self.total
        return after.median / before.median if before.median else None

    @property
    def slower(self) -> tuple[str, ...]:
        """Layers that take longer than before, by more than their times vary."""
        return tuple(
            name
            for name, (before, after) in self.layers.items()
            if after.median > NOISE * before.median and after.differs(before)
        )


@dataclass(frozen=True, slots=True)
class Times:
    """The time of a layer's forward pass, in seconds.

    Attributes:
        dense: of the layer as it is.
        fixed: of the layer at any rank.
        step: added by each multiply-add for one input.
    """

    dense: float
    fixed: float
    step: float

    def of(self, macs: int) -> float:
        """Expected seconds of a pruned layer that takes so many multiply-adds for one input."""
        return self.fixed + self.step * macs

    @staticmethod
    def fit(dense: float, macs: Sequence[int], seconds: Sequence[float]) -> Times:
        """Fit a line to measured times, by least squares of the relative errors.

        With relative errors a small layer counts as much as a large one. A falling line is taken
        for a level one with noise.

        Args:
            dense: seconds of the layer as it is.
            macs: multiply-adds of the layer at two different ranks at least.
            seconds: for each of these ranks, the measured seconds.
        """
        x, y = np.asarray(macs, np.float64), np.asarray(seconds, np.float64)
        design = np.stack([np.ones_like(x), x], axis=1) / y[:, None]
        fixed, step = np.linalg.lstsq(design, np.ones_like(y), rcond=None)[0]
        if step < 0:
            return Times(dense, float(y.mean()), 0.0)
        if fixed < 0:
            share = x / y
            return Times(dense, 0.0, float(share.sum() / (share @ share)))
        return Times(dense, float(fixed), float(step))
