"""Which rank each layer gets: by a rule, under a budget, for a size, or by a plan."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from rmtcli.allocate import Budget
from rmtcli.checkpoint import Checkpoint
from rmtcli.checkpoint.dtypes import BYTES
from rmtcli.errors import UsageError
from rmtcli.keep import KEEP_RULES, Untouched
from rmtcli.plan import Allocation, Data, Fitted
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

    Raises:
        UsageError: two of them at once, or a value out of range.
    """

    keep: str
    budget: Budget | None
    max_drop: float | None
    rank_multiple: int = 1
    plan: Plan | None = None

    def __post_init__(self) -> None:
        if self.budget is not None and self.max_drop is not None:
            raise UsageError("a budget and --max-drop exclude each other: give one")
        if self.plan is not None and (self.joint or self.keep != "auto" or self.rank_multiple > 1):
            raise UsageError("a plan sets the ranks: leave out --keep, budgets and --max-drop")
        if self.joint and self.keep != "auto":
            raise UsageError(f"--keep {self.keep} sets ranks itself: leave it out here")
        if self.max_drop is not None and not 0 <= self.max_drop < math.inf:
            raise UsageError(f"--max-drop must be at least 0, not {self.max_drop}")
        if self.rank_multiple < 1:
            raise UsageError(f"--rank-multiple must be at least 1, not {self.rank_multiple}")

    @property
    def words(self) -> str:
        """What decides the ranks, as a user would ask for it."""
        if self.budget is not None:
            return f"budget {self.budget.text} of {self.budget.unit}"
        return f"keep {self.keep}" if self.max_drop is None else f"max-drop {self.max_drop:g}"

    @property
    def joint(self) -> bool:
        """Whether the ranks of all layers are decided at once."""
        return self.budget is not None or self.max_drop is not None


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


def under_budget(
    checkpoint: Checkpoint, allocation: Allocation, budget: Budget, data: Mapping[str, Data] | None
) -> Choice:
    """The best ranks under a budget, in the unit that the allocation is in.

    Raises:
        UsageError: a budget that is none, or that cannot be met.
    """
    size = budget.amount(allocation.total)
    if size < allocation.least:
        hint = "" if budget.unit == "macs" else ": --budget-macs counts the layers alone"
        raise UsageError(
            f"{checkpoint.path}: a budget of {budget.text} cannot be met: with every layer that "
            f"may be pruned at its smallest, {allocation.least:,} of {allocation.total:,} "
            f"{budget.unit} are left{hint}"
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
