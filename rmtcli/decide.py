"""Which rank each layer gets: by a rule, under a budget, or within a limit on the loss."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from rmtcli.allocate import Budget
from rmtcli.checkpoint import Checkpoint
from rmtcli.checkpoint.dtypes import BYTES
from rmtcli.errors import UsageError
from rmtcli.evaluation.base import Comparison, Evaluation
from rmtcli.guard import Guard
from rmtcli.keep import KEEP_RULES, Untouched
from rmtcli.plan import Allocation, Data, Fitted

#: What becomes of a layer: a rank, or why it stays as it is.
Choice = Callable[[Fitted], int | Untouched]


@dataclass(frozen=True, slots=True)
class Goal:
    """How ranks are decided: by a keep rule, under a budget, or within a limit on the loss.

    Raises:
        UsageError: two of them at once, or a value out of range.
    """

    keep: str
    budget: Budget | None
    max_drop: float | None
    rank_multiple: int

    def __post_init__(self) -> None:
        if self.budget is not None and self.max_drop is not None:
            raise UsageError("a budget and --max-drop exclude each other: give one")
        if self.joint and self.keep != "auto":
            raise UsageError(f"--keep {self.keep} sets ranks itself: leave it out here")
        if self.max_drop is not None and not 0 <= self.max_drop < math.inf:
            raise UsageError(f"--max-drop must be at least 0, not {self.max_drop}")
        if self.rank_multiple < 1:
            raise UsageError(f"--rank-multiple must be at least 1, not {self.rank_multiple}")

    @property
    def joint(self) -> bool:
        """Whether the ranks of all layers are decided at once."""
        return self.budget is not None or self.max_drop is not None


def by_rule(keep: str, data: Mapping[str, Data] | None = None) -> Choice:
    """Ranks by a keep rule, layer by layer; ``data`` is None where nothing was calibrated."""
    rule = KEEP_RULES.parse(keep)
    return lambda item: _left_out(item, data) or rule.rank(item.spectrum, item.fit)


def by_size(allocation: Allocation, size: int, data: Mapping[str, Data] | None) -> Choice:
    """The best ranks for a model of a given size."""
    ranks = allocation.ranks(size)
    return lambda item: _left_out(item, data) or ranks[item.layer.name]


def allocation_of(
    checkpoint: Checkpoint,
    fitted: Sequence[Fitted],
    data: Mapping[str, Data] | None,
    goal: Goal,
) -> Allocation:
    """The layers that share a budget, and what their weights cost in its unit."""
    free = [item for item in fitted if not _left_out(item, data)]
    unit = goal.budget.unit if goal.budget else "parameters"

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
        fixed = [item for item in fitted if _left_out(item, data)]
        total = sum(item.layer.size for item in fixed)
        total += sum(cost(item) * item.layer.size for item in free)
    else:
        total = checkpoint.parameters
    return Allocation(free, [cost(item) for item in free], total, goal.rank_multiple)


def under_budget(
    checkpoint: Checkpoint, allocation: Allocation, budget: Budget, data: Mapping[str, Data] | None
) -> Choice:
    """The best ranks under a budget.

    Raises:
        UsageError: a budget that is none, or that cannot be met.
    """
    size = budget.amount(allocation.total)
    if size < allocation.least:
        raise UsageError(
            f"{checkpoint.path}: a budget of {budget.text} cannot be met: with every layer that "
            f"may be pruned at its smallest, {allocation.least:,} of {allocation.total:,} "
            f"{budget.unit} are left"
        )
    return by_size(allocation, size, data)


def within_limit(
    checkpoint: Checkpoint,
    allocation: Allocation,
    make: Callable[[Choice], Checkpoint],
    data: Mapping[str, Data] | None,
    evaluation: Evaluation,
    max_drop: float,
) -> tuple[Choice, Comparison, Guard]:
    """The smallest network that loses no more than ``max_drop``.

    Args:
        checkpoint: the dense network.
        allocation: the layers that may be pruned.
        make: from a choice for every layer to the pruned checkpoint.
        data: what calibration found out, or None.
        evaluation: how to score.
        max_drop: points of accuracy, or units of the user's own score.
    """
    from rmtcli.running import guarded

    size, comparison, guard = guarded(
        checkpoint,
        lambda n: make(by_size(allocation, n, data)),
        (allocation.least, allocation.total),
        evaluation,
        max_drop,
    )
    if size is None:
        return lambda item: _left_out(item, data) or Untouched.GUARD, comparison, guard
    return by_size(allocation, size, data), comparison, guard


def _left_out(item: Fitted, data: Mapping[str, Data] | None) -> Untouched | None:
    """Why no rank is chosen for a layer at all."""
    if item.layer.head:
        return Untouched.HEAD
    if data is not None and item.layer.name not in data:
        return Untouched.NO_DATA
    return None
