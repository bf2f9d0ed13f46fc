"""Functions that choose a layer's rank: by a rule, under a budget, for a size, or by a plan."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, TypeAlias

from rmtcli.checkpoint import Checkpoint
from rmtcli.errors import UsageError
from rmtcli.keep import KEEP_RULES, Untouched
from rmtcli.options import option
from rmtcli.planning.allocation import Allocation, outside_budget, uncalibrated, without_rank
from rmtcli.planning.bits import BitAllocation
from rmtcli.planning.budget import Budget
from rmtcli.planning.fit import Fitted, LayerCalibration
from rmtcli.planning.mixed import MixedAllocation
from rmtcli.planning.plan_file import Plan
from rmtcli.planning.widths import WidthAllocation

if TYPE_CHECKING:
    from rmtcli.calibration import ByLayer

#: Chooses a layer's rank, or says why the layer stays as it is.
RankChooser = Callable[[Fitted], int | Untouched]
#: The calibrated layers by name; None if nothing was calibrated.
Calibrations: TypeAlias = "ByLayer[LayerCalibration] | None"


def by_rule(keep: str, calibrations: Calibrations = None) -> RankChooser:
    """Ranks by a keep rule, each layer on its own."""
    rule = KEEP_RULES.parse(keep)
    return lambda item: without_rank(item, calibrations) or rule.rank(item.spectrum, item.fit)


def by_plan(plan: Plan, calibrations: Calibrations) -> RankChooser:
    """The ranks of a plan, also of output heads; a layer that it does not name stays as it is."""

    def choose(item: Fitted) -> int | Untouched:
        name = item.layer.name
        if name not in plan.ranks:
            return Untouched.PLAN
        return uncalibrated(item, calibrations) or plan.ranks[name]

    return choose


def by_ranks(ranks: Mapping[str, int | Untouched], calibrations: Calibrations) -> RankChooser:
    """The ranks of the layers that share a budget, by name."""
    return lambda item: outside_budget(item, calibrations) or ranks[item.layer.name]


def nothing_within(calibrations: Calibrations) -> RankChooser:
    """No ranks, because no smaller network is within the limit."""
    return lambda item: without_rank(item, calibrations) or Untouched.GUARD


def size_within(
    checkpoint: Checkpoint,
    allocation: Allocation | BitAllocation | WidthAllocation | MixedAllocation,
    budget: Budget,
    calibrations: Calibrations,
) -> int:
    """The largest size within a budget, whose unit is that of the allocation.

    Args:
        checkpoint: the network.
        allocation: what its layers cost.
        budget: the budget.
        calibrations: the calibrated layers, and why others cannot change.

    Raises:
        UsageError: the budget cannot be read, or cannot be met.
    """
    size = budget.amount(allocation.total)
    if size < allocation.least:
        counts = budget.unit in ("macs", "ms")
        hint = "" if counts else f": {option('budget-macs')} counts only the layers"
        if calibrations is not None and calibrations.missing:
            name, reason = next(iter(calibrations.missing.items()))
            hint = f": layers that cannot change are among them, such as {name}: {reason.value}"
        if budget.may_be_percent:
            hint = f": for a share of the model, write {budget.text}%"
        least, total = budget.spell(allocation.least), budget.spell(allocation.total)
        raise UsageError(
            f"{checkpoint.path}: a budget of {budget.text} cannot be met: with all layers at their "
            f"smallest, {least} of {total} remain{hint}"
        )
    return size
