"""Divide one budget among layers: their ranks of least total loss."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from rmtcli.arrays import FloatArray

#: Costs and losses of the options for one layer.
Table = tuple[FloatArray, FloatArray]


@dataclass(frozen=True, slots=True, eq=False)
class RankOptions:
    """The options for one layer: factors of a rank that costs less than the layer, or no change.

    Attributes:
        losses: shape (p,), descending: the loss that dropping each direction adds. The losses of
            all layers are on one scale.
        costs: costs of the ranks 0, 1, …, ascending; shape (p + 1,) at most. Ranks beyond its end
            are not possible.
        dense: cost of leaving the layer as it is, which loses nothing.
        floor: smallest rank.
        multiple: ranks are multiples of it, for hardware that is faster with them.
    """

    losses: FloatArray
    costs: NDArray[np.int64]
    dense: int
    floor: int = 1
    multiple: int = 1

    @property
    def ranks(self) -> NDArray[np.int64]:
        """Every rank that costs less than the layer, ascending."""
        first = math.ceil(max(self.floor, 1) / self.multiple) * self.multiple
        ranks = np.arange(first, len(self.costs), self.multiple, dtype=np.int64)
        return ranks[self.costs[ranks] < self.dense]

    @property
    def least(self) -> int:
        """Cost of the cheapest option."""
        return self.cost(int(self.ranks[0])) if len(self.ranks) else self.dense

    def cost(self, rank: int) -> int:
        """Cost of a rank."""
        return int(self.costs[rank])


def allocate(layers: Sequence[RankOptions], budget: int) -> list[int | None]:
    """Ranks of least total loss whose costs sum to at most ``budget``; None leaves a layer dense.

    A multiplier puts one price on cost; at each price the layers choose independently of one
    another (Everett, 1963). The price is bisected, and the rest of the budget is spent on the steps
    with the largest gain for their cost. The result is within one step of the optimum, from one
    option that is best at some price to the next one. Where costs grow with the rank, these are all
    ranks of a layer; where they are concave (pivoted layers), some of the largest are never best.

    Raises:
        ValueError: the smallest options together cost more than the budget.
    """
    ranks = [[*map(int, options.ranks), None] for options in layers]
    picks = divide([_table(options) for options in layers], budget)
    return [some[pick] for some, pick in zip(ranks, picks, strict=True)]


def divide(tables: Sequence[Table], budget: int) -> list[int]:
    """The number of each layer's option, as :func:`allocate` chooses them.

    Raises:
        ValueError: the smallest options together cost more than the budget.
    """
    picks = _pick(tables, math.inf)
    least = _total(tables, picks)
    if least > budget:
        raise ValueError(f"the smallest ranks cost {least:,} and the budget is {budget:,}")
    low, high = 0.0, max((float(loss.max()) for _, loss in tables), default=0.0) + 1.0
    for _ in range(200):
        price = (low + high) / 2
        tried = _pick(tables, price)
        if _total(tables, tried) > budget:
            low = price
        else:
            picks, high = tried, price
    _spend(tables, picks, budget - _total(tables, picks))
    return picks


def _table(options: RankOptions) -> Table:
    """Cost and loss of every rank, ascending in cost, and last those of the dense layer."""
    ranks = options.ranks
    kept = np.concatenate([[0.0], np.cumsum(options.losses)])
    tail = np.maximum(kept[-1] - kept, 0.0)
    cost = np.append(options.costs[ranks], options.dense).astype(np.float64)
    return cost, np.append(tail[ranks], 0.0)


def _pick(tables: Sequence[Table], price: float) -> list[int]:
    """Each layer's best option at a price; the cheapest at an infinite one."""
    if math.isinf(price):
        return [int(np.argmin(cost)) for cost, _ in tables]
    return [int(np.argmin(loss + price * cost)) for cost, loss in tables]


def _total(tables: Sequence[Table], picks: Sequence[int]) -> int:
    return int(sum(cost[pick] for (cost, _), pick in zip(tables, picks, strict=True)))


def _spend(tables: Sequence[Table], picks: list[int], left: int) -> None:
    """Repeat the step with the largest gain for its cost, as long as the rest can pay for one."""
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
