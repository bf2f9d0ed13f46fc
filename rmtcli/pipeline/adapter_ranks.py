"""The ranks of an adapter: by a keep rule for each layer, or by a budget for all of them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from rmtcli.arrays import FloatArray
from rmtcli.calibration import ByLayer
from rmtcli.errors import UsageError
from rmtcli.keep import KEEP_RULES, Untouched
from rmtcli.options import option
from rmtcli.planning import (
    Fitted,
    Goal,
    LayerCalibration,
    Plain,
    Range,
    RankChooser,
    divide,
    uncalibrated,
)


@dataclass(frozen=True, slots=True)
class AdapterGoal:
    """How the ranks of an adapter are decided, and what it holds beside its layers.

    Attributes:
        ranks: a keep rule, most parameters of all factors together, or the most that may be lost.
        max_rank: largest rank of a layer.
        edge: the edge estimator.
        whole: names or patterns of tensors that are held whole if they changed.
        repairs: whether the base is a compressed network and the other one dense, so that the noise
            is fitted in the metric of the dense network's calibration.

    Raises:
        UsageError: a value out of range, or a budget in another unit.
    """

    ranks: Goal
    max_rank: int | None
    edge: str
    whole: tuple[str, ...] = ()
    repairs: bool = False

    def __post_init__(self) -> None:
        budget = self.ranks.budget
        if budget is not None and budget.unit != "parameters":
            raise UsageError(f"the budget of an adapter is in parameters: give {option('budget')}")
        check_max_rank(self.max_rank)


def check_max_rank(rank: int | None) -> None:
    """Refuse a largest rank that no adapter can have.

    Raises:
        UsageError: it is one.
    """
    if rank is not None and rank < 1:
        raise UsageError(f"{option('max-rank')} must be at least 1, not {rank}")


def by_rule(goal: AdapterGoal, calibrations: ByLayer[LayerCalibration] | None) -> RankChooser:
    """Ranks by the keep rule, each layer on its own, up to the largest rank allowed."""
    rule = KEEP_RULES.parse(goal.ranks.keep)

    def choose(item: Fitted) -> int | Untouched:
        stays = _without_adapter(item) or uncalibrated(item, calibrations)
        chosen = stays or rule.rank(item.spectrum, item.fit)
        return chosen if isinstance(chosen, Untouched) else min(chosen, _cap(item, goal))

    return choose


def sizes_of(
    fitted: Sequence[Fitted], goal: AdapterGoal, calibrations: ByLayer[LayerCalibration] | None
) -> Range:
    """The numbers of parameters of all factors among which a search looks.

    They end above that of the whole change, which may lose something, too: an adapter leaves other
    tensors out.
    """
    free = [x for x in fitted if not (_without_adapter(x) or uncalibrated(x, calibrations))]
    costs = [sum(item.layer.shape) for item in free] or [1]
    whole = sum(_cap(x, goal) * sum(x.layer.shape) for x in free)
    edge = sum(min(x.spikes, _cap(x, goal)) * sum(x.layer.shape) for x in free)
    return Range(min(costs), edge, 2 * whole)


def by_budget(
    fitted: Sequence[Fitted],
    goal: AdapterGoal,
    budget: int,
    calibrations: ByLayer[LayerCalibration] | None,
) -> RankChooser:
    """Ranks of least total loss: of the change's squared norm, or in the calibration's metric."""

    def stays(item: Fitted) -> Untouched | None:
        return _without_adapter(item) or uncalibrated(item, calibrations)

    free = [item for item in fitted if not stays(item)]
    tables = []
    for item in free:
        ranks = np.arange(_cap(item, goal) + 1, dtype=np.float64)
        losses = losses_of(item)
        tail = np.append(np.cumsum(losses[::-1])[::-1], 0.0)[: len(ranks)]
        tables.append((ranks * sum(item.layer.shape), tail))
    picks = divide(tables, budget)
    chosen = {item.layer.name: pick for item, pick in zip(free, picks, strict=True)}
    return lambda item: stays(item) or chosen[item.layer.name] or Untouched.UNPAID


def losses_of(item: Fitted) -> FloatArray:
    """What dropping each direction loses: shape (p,), descending."""
    approximation = item.approximation
    assert approximation is not None
    if isinstance(approximation, Plain):
        return item.spectrum.n * item.spectrum.eigenvalues[::-1]
    return approximation.losses


def _cap(item: Fitted, goal: AdapterGoal) -> int:
    """The largest rank that a layer may get."""
    return min(item.spectrum.p, goal.max_rank or item.spectrum.p)


def _without_adapter(item: Fitted) -> Untouched | None:
    """Why no adapter can change a layer."""
    if not item.layer.view.splits:
        return Untouched.NO_ADAPTER
    return Untouched.SHARED if item.layer.tied else None
