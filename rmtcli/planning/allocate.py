"""Ranks for all layers under one budget."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from rmtcli.arrays import FloatArray


@dataclass(frozen=True, slots=True, eq=False)
class RankOptions:
    """What one layer may become: factors of any rank up to break-even, or what it is.

    Attributes:
        losses: shape (p,), descending: the loss that dropping each direction adds. Losses of all
            layers stand on one scale.
        step: cost of one unit of rank.
        dense: cost of leaving the layer as it is, which loses nothing.
        floor: smallest rank.
        multiple: ranks are multiples of it, for hardware that likes them.
        fixed: cost of factors beside their ranks.
        most: largest rank, whatever it costs; None for all.
    """

    losses: FloatArray
    step: int
    dense: int
    floor: int = 1
    multiple: int = 1
    fixed: int = 0
    most: int | None = None

    @property
    def ranks(self) -> NDArray[np.int64]:
        """Every rank whose factors cost less than the layer, ascending."""
        cheaper = (self.dense - self.fixed - 1) // self.step
        most = min(cheaper, len(self.losses) if self.most is None else self.most)
        first = math.ceil(max(self.floor, 1) / self.multiple) * self.multiple
        return np.arange(first, most + 1, self.multiple, dtype=np.int64)

    @property
    def least(self) -> int:
        """Cost of the cheapest option."""
        return self.cost(int(self.ranks[0])) if len(self.ranks) else self.dense

    def cost(self, rank: int) -> int:
        """Cost of factors of a rank."""
        return self.fixed + rank * self.step


def allocate(choices: Sequence[RankOptions], budget: int) -> list[int | None]:
    """Ranks of least total loss whose costs sum to at most ``budget``; None leaves a layer dense.

    A multiplier puts one price on cost; at each price every layer chooses for itself (Everett,
    1963). The price is bisected, and what is left of the budget is spent on the steps that gain
    most for their cost. Since losses descend, the result is within one step of the optimum but for
    the jump to dense.

    Raises:
        ValueError: the smallest choices together cost more than the budget.
    """
    tables = [_table(choice) for choice in choices]
    least = sum(choice.least for choice in choices)
    if least > budget:
        raise ValueError(f"the smallest ranks cost {least:,} and the budget is {budget:,}")
    low, high = 0.0, max((float(loss.max()) for _, loss in tables), default=0.0) + 1.0
    picks = _pick(tables, math.inf)
    for _ in range(200):
        price = (low + high) / 2
        found = _pick(tables, price)
        if _total(tables, found) > budget:
            low = price
        else:
            picks, high = found, price
    _spend(tables, picks, budget - _total(tables, picks))
    options = [[*map(int, choice.ranks), None] for choice in choices]
    return [ranks[pick] for ranks, pick in zip(options, picks, strict=True)]


Table = tuple[FloatArray, FloatArray]


def _table(choice: RankOptions) -> Table:
    """Cost and loss of every rank, ascending in cost, with the dense layer as the last."""
    ranks = choice.ranks
    kept = np.concatenate([[0.0], np.cumsum(choice.losses)])
    tail = np.maximum(kept[-1] - kept, 0.0)
    cost = np.append(choice.fixed + ranks * choice.step, choice.dense).astype(np.float64)
    return cost, np.append(tail[ranks], 0.0)


def _pick(tables: Sequence[Table], price: float) -> list[int]:
    """Each layer's best option at a price; the cheapest at an infinite one."""
    if math.isinf(price):
        return [int(np.argmin(cost)) for cost, _ in tables]
    return [int(np.argmin(loss + price * cost)) for cost, loss in tables]


def _total(tables: Sequence[Table], picks: Sequence[int]) -> int:
    return int(sum(cost[pick] for (cost, _), pick in zip(tables, picks, strict=True)))


def _spend(tables: Sequence[Table], picks: list[int], left: int) -> None:
    """Move the layer that gains most for its cost, as long as one can be paid for."""
    while True:
        best = (0.0, -1, -1)
        for i, (cost, loss) in enumerate(tables):
            extra, gain = cost - cost[picks[i]], loss[picks[i]] - loss
            possible = (extra > 0) & (extra <= left)
            if possible.any():
                rate = np.where(possible, gain / np.where(extra > 0, extra, 1), 0.0)
                j = int(np.argmax(rate))
                best = max(best, (float(rate[j]), i, j))
        if best[1] < 0 or best[0] <= 0:
            return
        _, i, j = best
        left -= int(tables[i][0][j] - tables[i][0][picks[i]])
        picks[i] = j
