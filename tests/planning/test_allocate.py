from __future__ import annotations

import itertools
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from rmtcli.arrays import FloatArray
from rmtcli.errors import UsageError
from rmtcli.planning import Budget
from rmtcli.planning.allocate import RankOptions, allocate


@st.composite
def problems(draw: st.DrawFn) -> tuple[list[RankOptions], int]:
    layers = []
    for _ in range(draw(st.integers(1, 3))):
        out, inputs = draw(st.integers(2, 9)), draw(st.integers(2, 9))
        losses = draw(
            st.lists(st.floats(0, 100), min_size=min(out, inputs), max_size=min(out, inputs))
        )
        losses = np.sort(np.array(losses))[::-1]
        multiple, floor = draw(st.sampled_from([1, 1, 2])), draw(st.sampled_from([1, 1, 2]))
        fixed, most = draw(st.sampled_from([0, 0, 3])), draw(st.sampled_from([None, None, 2]))
        ranks = np.arange(1 + (len(losses) if most is None else min(most, len(losses))))
        concave = draw(st.booleans())  # as of pivoted layers
        costs = fixed + ranks * (out + inputs - (ranks if concave else 0))
        layers.append(RankOptions(losses, costs, out * inputs, floor, multiple))
    dense = sum(layer.dense for layer in layers)
    return layers, draw(st.integers(0, dense))


def options(layer: RankOptions) -> list[tuple[int | None, int, float]]:
    """(rank, cost, loss) of every option of a layer, written out."""
    possible: list[tuple[int | None, int, float]] = [(None, layer.dense, 0.0)]
    for rank in range(1, len(layer.losses) + 1):
        fits = rank % layer.multiple == 0 and layer.floor <= rank < len(layer.costs)
        if fits and layer.costs[rank] < layer.dense:
            possible.append((rank, int(layer.costs[rank]), float(layer.losses[rank:].sum())))
    return possible


def linear(losses: list[float] | FloatArray, step: int, dense: int, fixed: int = 0) -> RankOptions:
    """Options of a layer whose ranks cost as much each."""
    ranks = np.arange(1 + len(losses))
    return RankOptions(np.array(losses), fixed + step * ranks, dense)


def hull(layer: RankOptions) -> list[tuple[float, float]]:
    """(cost, loss) of the options that are best at some price, by cost, written out."""
    points = sorted((float(cost), loss) for _, cost, loss in options(layer))
    lower: list[tuple[float, float]] = []
    for point in points:
        while lower and lower[-1][1] <= point[1]:
            break
        else:
            while len(lower) > 1 and _above(lower[-2], lower[-1], point):
                lower.pop()
            lower.append(point)
    return lower


def _above(a: tuple[float, float], b: tuple[float, float], c: tuple[float, float]) -> bool:
    """Whether b is on or above the line from a to c."""
    return (b[1] - a[1]) * (c[0] - a[0]) >= (c[1] - a[1]) * (b[0] - a[0])


@given(problems())
def test_ranks_are_within_one_step_of_brute_force(
    problem: tuple[list[RankOptions], int],
) -> None:
    layers, budget = problem
    everything = list(itertools.product(*map(options, layers)))
    allowed = [c for c in everything if sum(cost for _, cost, _ in c) <= budget]
    if not allowed:
        with pytest.raises(ValueError, match="the smallest ranks cost"):
            allocate(layers, budget)
        return
    best = min(sum(loss for _, _, loss in c) for c in allowed)
    ranks = allocate(layers, budget)
    chosen = [next(o for o in options(c) if o[0] == r) for c, r in zip(layers, ranks, strict=True)]
    assert sum(cost for _, cost, _ in chosen) <= budget
    # One step of one layer: from an option that is best at some price to the next one.
    steps = [a[1] - b[1] for layer in layers for a, b in itertools.pairwise(hull(layer))]
    assert sum(loss for _, _, loss in chosen) <= best + max(steps, default=0) + 1e-6


def test_a_budget_for_everything_leaves_everything_dense() -> None:
    layers = [
        linear(np.array([3.0, 2.0, 1.0]), 7, 12),
        linear(np.array([9.0, 1.0]), 6, 8),
    ]
    assert allocate(layers, 20) == [None, None]


def test_directions_are_kept_in_order_of_loss_per_cost() -> None:
    cheap = linear(np.array([5.0, 4.0, 0.1, 0.1, 0.1]), 10, 1000)
    expensive = linear(np.array([50.0, 30.0, 0.1, 0.1, 0.1]), 100, 1000)
    # Gains per cost: 0.5, 0.4 of the cheap layer, 0.5, 0.3 of the expensive one.
    assert allocate([cheap, expensive], 110) == [1, 1]
    assert allocate([cheap, expensive], 120) == [2, 1]
    assert allocate([cheap, expensive], 220) == [2, 2]


@pytest.mark.parametrize("scale", [1e-4, 1.0])
def test_where_all_ranks_cost_the_same_the_largest_losses_are_kept(scale: float) -> None:
    rng = np.random.default_rng(1)
    losses = [scale * np.sort(rng.exponential(size=9))[::-1] for _ in range(4)]
    layers = [linear(loss, 7, 1000) for loss in losses]
    rest = np.sort(np.concatenate([loss[1:] for loss in losses]))[::-1]
    for count in range(len(rest) + 1):
        least = rest[count - 1] if count else np.inf
        expected = [1 + int(np.sum(loss[1:] >= least)) for loss in losses]
        for left in (0, 6):
            assert allocate(layers, 7 * (4 + count) + left) == expected


def test_the_rest_of_a_budget_is_spent_where_it_gains_most() -> None:
    """The best step for its cost, 20 for 10, costs more than the 5 that are left."""
    much = linear(np.array([9.0, *[1.0] * 50]), 5, 10_000)
    little = linear(np.array([9.0, 3.0]), 5, 10_000)
    expensive = linear(np.array([90.0, 20.0]), 10, 10_000)
    assert allocate([much, little, expensive], 25) == [1, 2, 1]


@pytest.mark.parametrize("step", [1, 7])
def test_equal_gains_are_paid_for_until_the_budget_is_spent(step: int) -> None:
    layers = [linear(1e-3 * np.array([4.0, 2.0, 1.0]), step, 1000)] * 3
    for units in range(3, 10):
        ranks = allocate(layers, units * step)
        assert sum(rank or 0 for rank in ranks) == units
        assert max(rank or 0 for rank in ranks) <= units / 3 + 1


@pytest.mark.parametrize("scale", [1e-4, 1.0])
def test_the_price_alone_leaves_less_than_one_step_of_the_budget(
    scale: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Single steps are slow where there are many, so the price must not leave them many."""
    monkeypatch.setattr("rmtcli.planning.allocate._spend", lambda *_: None)
    rng = np.random.default_rng(0)
    losses = [scale * np.sort(rng.exponential(size=50))[::-1] * 0.01**i for i in range(3)]
    layers = [linear(loss, 7, 1000) for loss in losses]
    for budget in (21, 100, 500, 1000):
        ranks = allocate(layers, budget)
        assert budget - 7 < sum(7 * rank for rank in ranks if rank) <= budget
    assert allocate(layers, 3000) == [50] * 3  # which loses nothing


@given(problems(), st.floats(1e-6, 1e6))
def test_the_scale_of_the_losses_does_not_matter(
    problem: tuple[list[RankOptions], int], scale: float
) -> None:
    layers, budget = problem
    scaled = [replace(c, losses=c.losses * scale) for c in layers]
    try:
        expected = allocate(layers, budget)
    except ValueError:
        return

    def loss(ranks: list[int | None]) -> float:
        parts = zip(layers, ranks, strict=True)
        return sum(0.0 if r is None else float(c.losses[r:].sum()) for c, r in parts)

    assert loss(allocate(scaled, budget)) == pytest.approx(loss(expected), rel=1e-6, abs=1e-6)


@pytest.mark.parametrize(
    ("text", "unit", "amount"),
    [
        ("10%", "parameters", 100),
        (" 2.5 % ", "macs", 25),
        ("100%", "bytes", 1000),
        ("1000", "parameters", 1000),
        ("1", "parameters", 1),
        ("0.0002", "ms", 200),
        ("50%", "ms", 500),
    ],
)
def test_a_budget_is_a_share_or_a_number(text: str, unit: str, amount: int) -> None:
    result = Budget(text, unit).amount(1000)
    assert result == amount
    assert type(result) is int


def test_milliseconds_are_a_million_nanoseconds() -> None:
    assert Budget("1500", "ms").amount(2 * 10**9) == 1_500_000_000


@pytest.mark.parametrize(
    ("text", "unit", "message"),
    [
        ("ten", "bytes", r"^a budget is a share such as 10% or a number of bytes, not 'ten'$"),
        ("1%%", "macs", "a number of macs, not '1%%'"),
        ("-5", "macs", "a number of macs, not '-5'"),
        ("0", "macs", r"^a budget of 0 is not between 0 and the model's 1,234 macs$"),
        ("0.01%", "macs", "a budget of 0.01% is not between"),
        ("1235", "macs", "a budget of 1235 is not between"),
        ("0.5", "parameters", r"^a budget of 0.5 parameters is less than one: .* write 50%$"),
        ("1.0", "bytes", r"model, write 100%$"),
        ("101%", "parameters", "is not between 0 and the model's 1,234 parameters"),
        ("1", "ms", r"^a budget of 1 is not between 0 and the model's 0.001234 ms$"),
    ],
)
def test_an_invalid_budget_is_refused(text: str, unit: str, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        Budget(text, unit).amount(1234)


@pytest.mark.parametrize(
    ("budget", "words"),
    [
        (Budget("10%"), "10% of parameters"),
        (Budget("300", "bytes"), "300 of bytes"),
        (Budget("50%", "ms"), "50% of the linear layers' time"),
        (Budget("3", "ms"), "3 ms of the linear layers' time"),
    ],
)
def test_a_budget_in_words(budget: Budget, words: str) -> None:
    assert budget.words == words


def test_no_layers_and_equal_losses_can_be_allocated() -> None:
    assert allocate([], 0) == []
    flat = linear(np.zeros(3), 4, 13)
    assert allocate([flat], 12) == [1]  # nothing is gained by more
    with pytest.raises(
        ValueError, match=r"^the smallest ranks cost 1,004 and the budget is 1,000$"
    ):
        allocate([linear(np.ones(3), 4, 2000, fixed=1000)], 1000)
