"""Results of one call of a pruner."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

from rmtcli.errors import TrainingError


@dataclass(frozen=True, slots=True)
class Change:
    """Result of one call for one layer.

    Attributes:
        layer: the weight's name, such as ``fc1.weight``.
        out: number of outputs of the layer now.
        inputs: number of inputs of the layer now.
        before: rank before the call; p for a whole weight.
        rank: rank now.
        spikes: number of eigenvalues above the edge.
        edge: threshold in eigenvalue units.
        sigma: standard deviation of one noise entry.
        ks_distance: distance between the fitted and the empirical distribution function, in
            [0, 1].
        action: ``split``, ``truncated``, ``halved``, ``absorbed`` or ``kept``.
        reason: why the layer was kept as it is, or the verdict on the fit.
        relative_error: ‖W − W'‖_F / ‖W‖_F of the change from W to W'.
    """

    layer: str
    out: int
    inputs: int
    before: int
    rank: int
    spikes: int
    edge: float
    sigma: float
    ks_distance: float
    action: str
    reason: str
    relative_error: float


@dataclass(frozen=True, slots=True)
class Step:
    """Result of one call of the pruner; ``str`` gives one line.

    Attributes:
        time: number of earlier calls of the pruner.
        parameters: number of parameters of the whole network now.
        dense: number of parameters of the network when training began.
        changes: one entry per fitted layer; empty if the call was not one that acts.
        ranks: rank of every layer now, by name.
        metrics: measurements of the caller, such as the loss.
    """

    time: int
    parameters: int
    dense: int
    changes: tuple[Change, ...]
    ranks: Mapping[str, int]
    metrics: Mapping[str, float]

    def __str__(self) -> str:
        left = 100 * (self.parameters / self.dense - 1) + 0.0
        ranks = " ".join(f"{name.removesuffix('.weight')} {r}" for name, r in self.ranks.items())
        parts = [f"{self.time:>4}", f"rank {ranks}", f"{self.parameters:,} ({left:+.1f} %)"]
        worst = max((c.ks_distance for c in self.changes if math.isfinite(c.edge)), default=None)
        if worst is not None:
            parts.append(f"fit {worst:.3f}")
        parts += [f"{name} {value:.4g}" for name, value in self.metrics.items()]
        return "  ".join(parts)


def check_finite(metrics: Mapping[str, float], time: int) -> None:
    """Make sure that a caller's measurements are numbers.

    Raises:
        TrainingError: one of them is not finite.
    """
    for name, value in metrics.items():
        if not math.isfinite(value):
            raise TrainingError(
                f"{name} is {value} at time {time}: training has diverged: lower the learning "
                "rate, or clip gradients"
            )
