from __future__ import annotations

import itertools
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from rmtcli.allocate import Choice, allocate


@st.composite
def problems(draw: st.DrawFn) -> tuple[list[Choice], int]:
    choices = []
    for _ in range(draw(st.integers(1, 3))):
        out, inputs = draw(st.integers(2, 9)), draw(st.integers(2, 9))
        losses = draw(
            st.lists(st.floats(0, 100), min_size=min(out, inputs), max_size=min(out, inputs))
        )
        losses = np.sort(np.array(losses))[::-1]
        multiple, floor = draw(st.sampled_from([1, 1, 2])), draw(st.sampled_from([1, 1, 2]))
        fixed, most = draw(st.sampled_from([0, 0, 3])), draw(st.sampled_from([None, None, 2]))
        step, whole = out + inputs, out * inputs
        choices.append(Choice(losses, step, whole, floor, multiple, fixed, most))
    dense = sum(choice.dense for choice in choices)
    return choices, draw(st.integers(0, dense))


def options(choice: Choice) -> list[tuple[int | None, int, float]]:
    """(rank, cost, loss) of everything that a layer may become, written out."""
    found: list[tuple[int | None, int, float]] = [(None, choice.dense, 0.0)]
    for rank in range(1, len(choice.losses) + 1):
        fits = rank % choice.multiple == 0 and rank >= choice.floor
        fits = fits and (choice.most is None or rank <= choice.most)
        cost = choice.fixed + rank * choice.step
        if fits and cost < choice.dense:
            found.append((rank, cost, float(choice.losses[rank:].sum())))
    return found


@given(problems())
def test_is_within_one_step_of_brute_force(problem: tuple[list[Choice], int]) -> None:
    choices, budget = problem
    everything = list(itertools.product(*map(options, choices)))
    allowed = [c for c in everything if sum(cost for _, cost, _ in c) <= budget]
    if not allowed:
        with pytest.raises(ValueError, match="the smallest ranks cost"):
            allocate(choices, budget)
        return
    best = min(sum(loss for _, _, loss in c) for c in allowed)
    ranks = allocate(choices, budget)
    chosen = [next(o for o in options(c) if o[0] == r) for c, r in zip(choices, ranks, strict=True)]
    assert sum(cost for _, cost, _ in chosen) <= budget
    # One step of one layer: from an option to the next dearer one, the jump to dense among them.
    steps = []
    for choice in choices:
        ordered = sorted(options(choice), key=lambda o: o[1])
        steps += [a[2] - b[2] for a, b in itertools.pairwise(ordered)]
    assert sum(loss for _, _, loss in chosen) <= best + max(steps, default=0) + 1e-6


def test_a_budget_for_everything_leaves_everything_dense() -> None:
    choices = [Choice(np.array([3.0, 2.0, 1.0]), 7, 12), Choice(np.array([9.0, 1.0]), 6, 8)]
    assert allocate(choices, 20) == [None, None]


def test_directions_are_taken_by_loss_per_cost() -> None:
    cheap = Choice(np.array([5.0, 4.0, 0.1, 0.1, 0.1]), 10, 1000)
    dear = Choice(np.array([50.0, 30.0, 0.1, 0.1, 0.1]), 100, 1000)
    # Gains per cost: 0.5, 0.4 of the cheap layer, 0.5, 0.3 of the dear one.
    assert allocate([cheap, dear], 110) == [1, 1]
    assert allocate([cheap, dear], 120) == [2, 1]
    assert allocate([cheap, dear], 220) == [2, 2]


@given(problems(), st.floats(1e-6, 1e6))
def test_the_scale_of_the_losses_does_not_matter(
    problem: tuple[list[Choice], int], scale: float
) -> None:
    choices, budget = problem
    scaled = [replace(c, losses=c.losses * scale) for c in choices]
    try:
        expected = allocate(choices, budget)
    except ValueError:
        return

    def loss(ranks: list[int | None]) -> float:
        parts = zip(choices, ranks, strict=True)
        return sum(0.0 if r is None else float(c.losses[r:].sum()) for c, r in parts)

    assert loss(allocate(scaled, budget)) == pytest.approx(loss(expected), rel=1e-6, abs=1e-6)
