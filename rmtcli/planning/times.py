"""How long layers take: measured times, and the expected time of factors of a rank."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

#: Ratio above which a layer counts as slower; two runs of one layer may differ by as much.
_NOISE = 1.05


@dataclass(frozen=True, slots=True)
class Latency:
    """Times of forward passes at one batch size, of the dense layers and of the planned ones.

    Attributes:
        batch: rows of each layer's input, and samples of the network's.
        device: where they ran, such as ``cpu``.
        threads: number of threads of torch.
        layers: seconds before and after, by layer name, of each layer on its own; convolutions and
            recurrent layers are left out.
        network: seconds before and after of the whole network, or None if it was not run.
    """

    batch: int
    device: str
    threads: int
    layers: Mapping[str, tuple[float, float]]
    network: tuple[float, float] | None = None

    @property
    def total(self) -> tuple[float, float]:
        """Seconds of all layers in sequence, before and after."""
        before, after = zip(*self.layers.values(), strict=True) if self.layers else ((), ())
        return sum(before), sum(after)

    @property
    def ratio(self) -> float | None:
        """Time after / time before, of the network if it was run, else of the layers."""
        before, after = self.network or self.total
        return after / before if before else None

    @property
    def slower(self) -> tuple[str, ...]:
        """Layers that take longer than before."""
        return tuple(n for n, (before, after) in self.layers.items() if after > _NOISE * before)


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
