"""Which rank each layer gets: by a rule, under a budget, for a size, or by a plan."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from rmtcli import allocate
from rmtcli.allocate import Budget
from rmtcli.checkpoint import Checkpoint
from rmtcli.checkpoint.dtypes import BYTES
from rmtcli.errors import UsageError
from rmtcli.keep import KEEP_RULES, Untouched
from rmtcli.latency import Times
from rmtcli.layers import Layer
from rmtcli.plan import Data, Fitted
from rmtcli.plan_file import Plan

#: What becomes of a layer: a rank, or why it stays as it is.
Choice = Callable[[Fitted], int | Untouched]


@dataclass(frozen=True, slots=True)
class Goal:
    """How ranks are decided: by a keep rule, under a budget, within a limit, or by a plan.

    Attributes:
        keep: the keep rule, where nothing else is set.
        budget: what the whole model may cost.
        max_drop: what may be lost.
        rank_multiple: with a budget or limit, ranks are multiples of it.
        plan: a plan to carry out.
        share_inputs: with a budget or limit, layers that read one input share a right factor.
        batch: rows at which a budget of time is measured.

    Raises:
        UsageError: two of them at once, or a value out of range.
    """

    keep: str
    budget: Budget | None
    max_drop: float | None
    rank_multiple: int = 1
    plan: Plan | None = None
    share_inputs: bool = False
    batch: int | None = None

    def __post_init__(self) -> None:
        if self.budget is not None and self.max_drop is not None:
            raise UsageError("a budget and --max-drop exclude each other: give one")
        ranks = self.joint or self.keep != "auto" or self.rank_multiple > 1
        if self.plan is not None and (ranks or self.share_inputs):
            raise UsageError("a plan sets the ranks: leave out --keep, budgets and --max-drop")
        if self.joint and self.keep != "auto":
            raise UsageError(f"--keep {self.keep} sets ranks itself: leave it out here")
        if self.max_drop is not None and not 0 <= self.max_drop < math.inf:
            raise UsageError(f"--max-drop must be at least 0, not {self.max_drop}")
        if self.budget is not None and self.budget.unit == "ms" and self.batch is None:
            raise UsageError(
                "--budget-latency is measured: give --batch, the samples to run at once"
            )
        if self.rank_multiple < 1:
            raise UsageError(f"--rank-multiple must be at least 1, not {self.rank_multiple}")
        if self.share_inputs and not self.joint:
            raise UsageError("--share-inputs divides a budget: give --budget or --max-drop")
        if self.share_inputs and self.budget is not None and self.budget.unit in ("macs", "ms"):
            raise UsageError(
                "--share-inputs saves no multiply-adds and no time, as each layer runs the shared "
                "factor: give --budget or --budget-bytes"
            )

    @property
    def words(self) -> str:
        """What decides the ranks, as a user would ask for it."""
        if self.budget is not None:
            return f"budget {self.budget.words}"
        return f"keep {self.keep}" if self.max_drop is None else f"max-drop {self.max_drop:g}"

    @property
    def joint(self) -> bool:
        """Whether the ranks of all layers are decided at once."""
        return self.budget is not None or self.max_drop is not None


@dataclass(frozen=True, eq=False)
class Allocation:
    """The layers among which a budget is divided; siblings have one rank.

    Attributes:
        layers: layers with their approximations; output heads are not among them.
        costs: for each, the cost of one weight: copies, bytes or uses. Siblings' are the same.
        total: cost of the dense model.
        multiple: ranks are multiples of it.
        times: where time is what counts, what each layer takes; then ``costs`` is empty, the total
            is in nanoseconds, and nothing is shared.
    """

    layers: Sequence[Fitted]
    costs: Sequence[int]
    total: int
    multiple: int = 1
    times: Sequence[Times] | None = None

    @cached_property
    def groups(self) -> list[list[int]]:
        """Places in ``layers`` of the layers that share a right factor; most are alone."""
        found: dict[str, list[int]] = {}
        for i, item in enumerate(self.layers):
            found.setdefault(item.group or item.layer.name, []).append(i)
        return list(found.values())

    @property
    def choices(self) -> list[allocate.Choice]:
        """What each group may become, and what that costs."""
        found = []
        for first, *others in self.groups:
            item = self.layers[first]
            assert item.approximation is not None
            if self.times is not None:
                found.append(_timed(item, self.times[first], self.multiple))
                continue
            cost = self.costs[first]
            out = sum(self.layers[i].layer.shape[0] for i in (first, *others))
            inputs, losses = item.layer.shape[1], item.approximation.losses
            step, dense = cost * (out + inputs), cost * out * inputs
            found.append(allocate.Choice(losses, step, dense, multiple=self.multiple))
        return found

    @property
    def least(self) -> int:
        """Cost of the model with every one of these layers as small as can be."""
        return self.total - sum(choice.dense - choice.least for choice in self.choices)

    @property
    def at_edge(self) -> int:
        """Cost of the model with each of these layers at its edge rank, where that is smaller."""
        cost = self.total
        for group, choice in zip(self.groups, self.choices, strict=True):
            possible = choice.ranks
            if len(possible):
                spikes = max(self.layers[i].spikes for i in group)
                rank = np.searchsorted(possible, spikes).clip(0, len(possible) - 1)
                cost -= choice.dense - choice.cost(int(possible[rank]))
        return cost

    def ranks(self, size: int) -> dict[str, int | Untouched]:
        """The best ranks, by layer name, for a model that costs at most ``size``.

        Raises:
            ValueError: the smallest ranks cost more.
        """
        choices = self.choices
        fixed = self.total - sum(choice.dense for choice in choices)
        found = allocate.allocate(choices, size - fixed)
        return {
            self.layers[i].layer.name: Untouched.BUDGET if rank is None else rank
            for group, rank in zip(self.groups, found, strict=True)
            for i in group
        }


def _timed(item: Fitted, times: Times, multiple: int) -> allocate.Choice:
    """What a layer may become where time counts; no larger than it was, all the same."""
    assert item.approximation is not None
    dense, fixed, step = (nanoseconds(t) for t in (times.dense, times.fixed, times.step))
    return allocate.Choice(
        item.approximation.losses,
        max(step, 1),
        dense,
        multiple=multiple,
        fixed=fixed,
        most=item.layer.break_even_rank,
    )


def nanoseconds(seconds: float) -> int:
    """Time as a whole number, which a budget is divided in."""
    return round(1e9 * seconds)


def by_rule(keep: str, data: Mapping[str, Data] | None = None) -> Choice:
    """Ranks by a keep rule, layer by layer; ``data`` is None where nothing was calibrated."""
    rule = KEEP_RULES.parse(keep)
    return lambda item: _left_out(item, data) or rule.rank(item.spectrum, item.fit)


def by_plan(plan: Plan, data: Mapping[str, Data] | None) -> Choice:
    """The ranks of a plan, output heads included; a layer that it does not name is left alone."""

    def choose(item: Fitted) -> int | Untouched:
        name = item.layer.name
        if name not in plan.ranks:
            return Untouched.PLAN
        return plan.ranks[name] if data is None or name in data else Untouched.NO_DATA

    return choose


def by_size(allocation: Allocation, size: int, data: Mapping[str, Data] | None) -> Choice:
    """The best ranks for a model of a given size."""
    ranks = allocation.ranks(size)
    return lambda item: _outside(item, data) or ranks[item.layer.name]


def nothing_within(data: Mapping[str, Data] | None) -> Choice:
    """Every layer stays as it is, because no smaller network is within the limit."""
    return lambda item: _left_out(item, data) or Untouched.GUARD


def allocation_of(
    checkpoint: Checkpoint,
    fitted: Sequence[Fitted],
    data: Mapping[str, Data] | None,
    *,
    unit: str = "parameters",
    multiple: int = 1,
) -> Allocation:
    """The layers that share a budget, and what their weights cost in its unit."""
    free = [item for item in fitted if not _outside(item, data)]

    def cost(item: Fitted) -> int:
        """Cost of one weight."""
        if unit == "bytes":
            return item.layer.copies * BYTES[item.layer.dtype]
        if unit == "macs":
            return 1 if data is None else max(1, round(data[item.layer.name].moments.uses))
        return item.layer.copies

    if unit == "bytes":
        total = checkpoint.bytes
    elif unit == "macs":
        fixed = [item for item in fitted if _outside(item, data)]
        total = sum(item.layer.size for item in fixed)
        total += sum(cost(item) * item.layer.size for item in free)
    else:
        total = checkpoint.parameters
    return Allocation(free, [cost(item) for item in free], total, multiple)


def timed_allocation(
    checkpoint: Checkpoint,
    fitted: Sequence[Fitted],
    data: Mapping[str, Data] | None,
    times: Callable[[Layer], Times],
    *,
    multiple: int = 1,
) -> Allocation:
    """The layers that share a budget of time; linear layers that stay as they are count too.

    Raises:
        UsageError: convolutions are among them, whose times are not known.
    """
    free = [item for item in fitted if not _outside(item, data)]
    for item in free:
        if not item.layer.linear:
            raise UsageError(
                f"{checkpoint.path}: {item.layer.name} is a convolution, and a latency budget is "
                "divided among linear layers only: leave out --conv"
            )
    total = sum(nanoseconds(times(item.layer).dense) for item in fitted if item.layer.linear)
    return Allocation(free, [], total, multiple, [times(item.layer) for item in free])


def under_budget(
    checkpoint: Checkpoint, allocation: Allocation, budget: Budget, data: Mapping[str, Data] | None
) -> Choice:
    """The best ranks under a budget, in the unit that the allocation is in.

    Raises:
        UsageError: a budget that is none, or that cannot be met.
    """
    size = budget.amount(allocation.total)
    if size < allocation.least:
        counts = budget.unit in ("macs", "ms")
        hint = "" if counts else ": --budget-macs counts the layers alone"
        least, total = budget.spell(allocation.least), budget.spell(allocation.total)
        raise UsageError(
            f"{checkpoint.path}: a budget of {budget.text} cannot be met: with every layer that "
            f"may be pruned at its smallest, {least} of {total} are left{hint}"
        )
    return by_size(allocation, size, data)


def _outside(item: Fitted, data: Mapping[str, Data] | None) -> Untouched | None:
    """Why a layer has no part in a budget: what cannot be split saves nothing."""
    return _left_out(item, data) or (None if item.layer.view.splits else Untouched.NO_FACTORS)


def _left_out(item: Fitted, data: Mapping[str, Data] | None) -> Untouched | None:
    """Why no rank is chosen for a layer at all."""
    if item.layer.head:
        return Untouched.HEAD
    if data is not None and item.layer.name not in data:
        return Untouched.NO_DATA
    return None
