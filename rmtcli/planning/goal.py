"""How the ranks of a model's layers are decided."""

from __future__ import annotations

import math
from dataclasses import dataclass

from rmtcli.errors import UsageError
from rmtcli.options import option
from rmtcli.planning.budget import Budget
from rmtcli.planning.plan_file import Plan

#: What ranks under a budget of time are multiples of: as many numbers of 32 bits as a register of
#: AVX2 holds, so that the rows of a factor all start where vector instructions load fastest.
_ALIGNED = 8


@dataclass(frozen=True, slots=True)
class Goal:
    """How ranks are decided: by a keep rule, under a budget, within a limit, or by a plan.

    Attributes:
        keep: the keep rule, used if nothing else is set.
        budget: the most that the whole model may cost.
        max_drop: the most that may be lost, in points of accuracy or units of the user's score.
        rank_multiple: with a budget or limit, ranks and widths are multiples of it; None for those
            that take least time if the budget is time, and else for any.
        plan: a plan to apply.
        share_inputs: with a budget or limit, layers that read the same input share a right factor.
        batch: rows at which a budget of time is measured.
        per_block: whether each hidden layer of a directory gets a width of its own; otherwise all
            whose width is one entry of the configuration get one.

    Raises:
        UsageError: options that exclude each other, or a value out of range.
    """

    keep: str
    budget: Budget | None
    max_drop: float | None
    rank_multiple: int | None = None
    plan: Plan | None = None
    share_inputs: bool = False
    batch: int | None = None
    per_block: bool = False

    def __post_init__(self) -> None:
        if self.budget is not None and self.max_drop is not None:
            raise UsageError(f"a budget and {option('max-drop')} exclude each other: give one")
        ranks = self.joint or self.keep != "auto" or (self.rank_multiple or 1) > 1
        if self.plan is not None and (ranks or self.share_inputs):
            raise UsageError(
                f"a plan sets the ranks: leave out {option('keep')}, budgets and "
                f"{option('max-drop')}"
            )
        if self.joint and self.keep != "auto":
            raise UsageError(
                f"{option('keep', self.keep)} sets ranks itself, so it excludes a budget and "
                f"{option('max-drop')}: give only one"
            )
        if self.max_drop is not None and not 0 <= self.max_drop < math.inf:
            raise UsageError(f"{option('max-drop')} must be at least 0, not {self.max_drop}")
        if self.budget is not None and self.budget.unit == "ms" and self.batch is None:
            raise UsageError(
                f"{option('budget-latency')} is measured: give {option('batch')}, the samples to "
                "run at once"
            )
        if self.rank_multiple is not None and self.rank_multiple < 1:
            raise UsageError(
                f"{option('rank-multiple')} must be at least 1, not {self.rank_multiple}"
            )
        if (self.rank_multiple or 1) > 1 and not self.joint:
            raise UsageError(
                f"{option('rank-multiple')} rounds the ranks of a budget: give {option('budget')} "
                f"or {option('max-drop')}"
            )
        if self.share_inputs and not self.joint:
            raise UsageError(
                f"{option('share-inputs')} divides a budget: give {option('budget')} or "
                f"{option('max-drop')}"
            )
        if self.share_inputs and self.budget is not None and self.budget.unit in ("macs", "ms"):
            raise UsageError(
                f"{option('share-inputs')} saves no multiply-adds and no time, as each layer runs "
                f"the shared factor: give {option('budget')} or {option('budget-bytes')}"
            )

    def multiple(self, side: int) -> int:
        """What ranks and widths are multiples of.

        Args:
            side: the largest rank or width, below which there must be enough multiples.
        """
        if self.rank_multiple is not None:
            return self.rank_multiple
        timed = self.budget is not None and self.budget.unit == "ms"
        return _ALIGNED if timed and side >= 8 * _ALIGNED else 1

    @property
    def words(self) -> str:
        """The option that decides the ranks, as a user would write it."""
        if self.budget is not None:
            return f"budget {self.budget.words}"
        return f"keep {self.keep}" if self.max_drop is None else f"max-drop {self.max_drop:g}"

    @property
    def tries(self) -> bool:
        """Whether the rule is ``auto``, whose result is tried where nothing is measured."""
        return self.keep == "auto" and self.plan is None and not self.joint

    @property
    def joint(self) -> bool:
        """Whether the ranks of all layers are decided together."""
        return self.budget is not None or self.max_drop is not None
