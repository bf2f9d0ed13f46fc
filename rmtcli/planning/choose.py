"""Which rank each layer gets: by a rule, under a budget, for a size, or by a plan."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from rmtcli.checkpoint import Checkpoint
from rmtcli.errors import UsageError
from rmtcli.keep import KEEP_RULES, Untouched
from rmtcli.planning.allocation import Allocation, _left_out, _outside
from rmtcli.planning.budget import Budget
from rmtcli.planning.fit import Fitted, LayerCalibration
from rmtcli.planning.plan_file import Plan

#: What becomes of a layer: a rank, or why it stays as it is.
RankChooser = Callable[[Fitted], int | Untouched]


def by_rule(keep: str, data: Mapping[str, LayerCalibration] | None = None) -> RankChooser:
    """Ranks by a keep rule, layer by layer; ``data`` is None where nothing was calibrated."""
    rule = KEEP_RULES.parse(keep)
    return lambda item: _left_out(item, data) or rule.rank(item.spectrum, item.fit)


def by_plan(plan: Plan, data: Mapping[str, LayerCalibration] | None) -> RankChooser:
    """The ranks of a plan, output heads included; a layer that it does not name is left alone."""

    def choose(item: Fitted) -> int | Untouched:
        name = item.layer.name
        if name not in plan.ranks:
            return Untouched.PLAN
        return plan.ranks[name] if data is None or name in data else Untouched.NO_DATA

    return choose


def by_size(
    allocation: Allocation, size: int, data: Mapping[str, LayerCalibration] | None
) -> RankChooser:
    """The best ranks for a model of a given size."""
    ranks = allocation.ranks(size)
    return lambda item: _outside(item, data) or ranks[item.layer.name]


def nothing_within(data: Mapping[str, LayerCalibration] | None) -> RankChooser:
    """Every layer stays as it is, because no smaller network is within the limit."""
    return lambda item: _left_out(item, data) or Untouched.GUARD


def under_budget(
    checkpoint: Checkpoint,
    allocation: Allocation,
    budget: Budget,
    data: Mapping[str, LayerCalibration] | None,
) -> RankChooser:
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
