"""The ranks of an adapter's layers: by a rule, each on its own, or under one budget."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from rmtcli.adapters.base import AdaptedLayer
from rmtcli.adapters.product import restricted
from rmtcli.arrays import FloatArray
from rmtcli.edges import EdgeEstimator, EdgeFit, Verdict
from rmtcli.edges.base import Noise
from rmtcli.keep import KeepRule, Untouched
from rmtcli.law.marchenko_pastur import MarchenkoPastur
from rmtcli.spectra import Spectrum

#: Why a layer is dropped.
NO_SIGNAL = "dropped: no singular value is above the edge, so there is noise only"
NO_CHANGE = "dropped: its factors change nothing"
OUT_OF_BUDGET = "dropped: other directions use the budget better"
BY_RULE = "dropped: the rule keeps no direction"
#: What rules get that look at singular values only.
_NO_FIT = EdgeFit(MarchenkoPastur(1.0, 0.0), 0.0, 0.0, Verdict.NO_LAW, Noise(0.0, None))


@dataclass(frozen=True, slots=True, eq=False)
class Measured:
    """What is known of a layer's change.

    Attributes:
        layer: the layer.
        values: the singular values of B A, largest first, without the scale.
        spectrum: the spectrum of the matrix that noise is fitted to.
        fit: the fit of the noise; None if none was asked for.
    """

    layer: AdaptedLayer
    values: FloatArray
    spectrum: Spectrum
    fit: EdgeFit | None

    @property
    def norm(self) -> float:
        """Frobenius norm of ΔW."""
        return abs(self.layer.scale) * float(np.linalg.norm(self.values))

    @property
    def nonzero(self) -> int:
        """The number of singular values above rounding."""
        return int(np.count_nonzero(self.values))

    def kept(self, rank: int) -> float:
        """The share of the Frobenius norm that the best approximation of a rank has, in [0, 1]."""
        total = float(np.linalg.norm(self.values))
        return float(np.linalg.norm(self.values[:rank])) / total if total else 1.0


@dataclass(frozen=True, slots=True)
class Decision:
    """The rank of a layer.

    Attributes:
        rank: the rank; 0 to drop the layer.
        reason: why it is dropped or left as it is; empty otherwise.
    """

    rank: int
    reason: str = ""


def measure(layers: Sequence[AdaptedLayer], estimator: EdgeEstimator | None) -> list[Measured]:
    """The singular values of every layer, and the fit of its noise if there is an estimator.

    Raises:
        CheckpointError: a factor has values that are not finite.
    """
    measured: dict[int, Measured] = {}
    for index, part in restricted(layers):
        spectrum = part.spectrum
        fit = None if estimator is None else estimator.fit(spectrum, part.matrix)
        measured[index] = Measured(layers[index], part.values, spectrum, fit)
    return [measured[index] for index in range(len(layers))]


def by_rule(item: Measured, rule: KeepRule) -> Decision:
    """The rank of a layer by a keep rule."""
    if not item.nonzero:
        return _dropped(item, NO_CHANGE)
    rank = rule.rank(item.spectrum, item.fit or _NO_FIT)
    if rank is Untouched.NO_SPIKES:
        return _dropped(item, NO_SIGNAL)
    if isinstance(rank, Untouched):
        return Decision(item.layer.rank, f"left as it is: {rank.value}")
    return Decision(min(rank, item.nonzero)) if rank else _dropped(item, BY_RULE)


def within_budget(
    measured: Sequence[Measured], costs: Sequence[int], budget: int
) -> list[Decision]:
    """Ranks that keep the most of the squared norm of all changes together.

    Each direction of a layer has a cost, the same for all of them, and a gain, its squared singular
    value with the layer's scale. Directions with the largest gain for their cost are kept; within a
    layer these are the first ones. That is optimal up to the one direction that does not fit any
    more.

    Args:
        measured: the layers.
        costs: what a direction of each layer costs.
        budget: what all directions that are kept may cost.
    """
    owner = np.repeat(np.arange(len(measured)), [len(item.values) for item in measured])
    scales = np.array([item.layer.scale for item in measured])
    prices = np.asarray(costs, dtype=np.float64)
    rate = (np.concatenate([x.values for x in measured]) * scales[owner]) ** 2 / prices[owner]
    order = np.argsort(-rate, kind="stable")
    order = order[rate[order] > 0]
    affordable = np.cumsum(prices[owner[order]]) <= budget
    ranks = np.bincount(owner[order[affordable]], minlength=len(measured)).tolist()
    return [
        Decision(rank) if rank else _dropped(item, OUT_OF_BUDGET if item.nonzero else NO_CHANGE)
        for item, rank in zip(measured, ranks, strict=True)
    ]


def _dropped(item: Measured, reason: str) -> Decision:
    """No rank; of a layer with magnitudes, which stay in effect without factors, rank 1."""
    return Decision(0, reason) if item.layer.magnitude is None else Decision(1)
