"""What a pruner did to a network at one time."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Change:
    """One layer at one time.

    Attributes:
        layer: the weight's name, such as ``fc1.weight``.
        out: outputs of the layer now.
        inputs: inputs of the layer now.
        before: rank before; p where the weight was whole.
        rank: rank now.
        spikes: eigenvalues above the edge.
        edge: threshold in eigenvalue units.
        sigma: deviation of the noise.
        ks_distance: distance of the fitted from the empirical distribution function, in [0, 1].
        action: what was done: ``split``, ``truncated``, ``halved``, ``absorbed`` or ``kept``.
        reason: why it was kept as it is, or the verdict on the fit.
        relative_error: ‖W − W'‖_F / ‖W‖_F of what was done.
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
    """One call of the pruner. As text it is one line.

    Attributes:
        time: how often the pruner was called before.
        parameters: of the whole network, now.
        dense: parameters of the network that training began with.
        changes: every layer that was looked at; empty where it was not the time.
        ranks: rank of every layer now, by name.
        metrics: what the caller measured, such as the loss.
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
