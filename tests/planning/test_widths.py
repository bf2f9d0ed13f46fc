"""One budget divided among the widths of hidden layers."""

from __future__ import annotations

from itertools import pairwise, product

import numpy as np
import pytest

from rmtcli.planning import WidthAllocation
from rmtcli.planning.widths import Side, Table


def chain(units: tuple[int, ...], seed: int, *, multiple: int = 1) -> WidthAllocation:
    """A chain of layers 7 → units → 3, whose losses are convex."""
    rng = np.random.default_rng(seed)
    losses = [np.append(np.sort(rng.exponential(size=n)).cumsum()[::-1], 0.0) for n in units]
    losses = [loss * rng.uniform(0.1, 10) for loss in losses]
    sides = [Side(7), *(Side(n, i) for i, n in enumerate(units)), Side(3)]
    tables = [Table(b, a, 1) for a, b in pairwise(sides)]
    biases = [Table(side, Side(1), 1) for side in sides[1:-1]]
    dense = sum(table.cost(units) for table in (*tables, *biases))
    return WidthAllocation(losses, [*tables, *biases], dense + 50, multiple)


def loss(allocation: WidthAllocation, widths: tuple[int, ...] | list[int]) -> float:
    pairs = zip(allocation.losses, widths, strict=True)
    return float(sum(losses[width] for losses, width in pairs))


@pytest.mark.parametrize("seed", range(8))
def test_widths_are_near_the_best_of_all_that_fit(seed: int) -> None:
    allocation = chain((6, 8, 5), seed)
    worst = loss(allocation, (0, 0, 0))
    for size in range(allocation.least, allocation.total, 13):
        widths = allocation.widths(size)
        assert allocation.cost(widths) <= size
        options = product(range(1, 7), range(1, 9), range(1, 6))
        best = min(loss(allocation, w) for w in options if allocation.cost(w) <= size)
        assert loss(allocation, widths) <= best + 0.1 * worst


def test_every_step_that_is_left_over_is_too_expensive() -> None:
    allocation = chain((20, 30), 0)
    for size in (200, 400, 800):
        widths = allocation.widths(size)
        for i in range(2):
            wider = [w + (j == i) for j, w in enumerate(widths)]
            assert widths[i] == (20, 30)[i] or allocation.cost(wider) > size


def test_all_units_stay_where_the_budget_allows() -> None:
    allocation = chain((6, 8), 1)
    assert allocation.widths(allocation.total) == [6, 8]
    assert allocation.cost([6, 8]) == allocation.total


def test_widths_are_multiples_or_all_units() -> None:
    allocation = chain((30, 21), 2, multiple=8)
    for size in (allocation.least, 300, 600, allocation.total):
        first, second = allocation.widths(size)
        assert first in {8, 16, 24, 30}
        assert second in {8, 16, 21}


def test_a_budget_below_the_least_is_an_error() -> None:
    allocation = chain((6, 8), 3)
    with pytest.raises(ValueError, match="the smallest widths cost"):
        allocation.widths(allocation.least - 1)
