"""Options: how the ranks of all layers are decided at once."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Optional

import typer

from rmtcli.errors import UsageError

if TYPE_CHECKING:
    from rmtcli.planning import Budget


@dataclass(frozen=True, slots=True)
class GoalOptions:
    """Options that decide the ranks of all layers at once."""

    budget: Annotated[
        Optional[str],
        typer.Option(
            metavar="N|N%",
            help="Choose the best ranks for a model of N parameters, instead of --keep.",
            show_default=False,
        ),
    ] = None
    budget_bytes: Annotated[
        Optional[str],
        typer.Option(metavar="N|N%", help="Budget in bytes of all tensors.", show_default=False),
    ] = None
    budget_macs: Annotated[
        Optional[str],
        typer.Option(
            metavar="N|N%",
            help="Budget in multiply-adds of the fully connected layers.",
            show_default=False,
        ),
    ] = None
    budget_latency: Annotated[
        Optional[str],
        typer.Option(
            metavar="MS|N%",
            help="Budget in milliseconds of the linear layers' forward passes, which are timed on "
            "this machine with --batch samples.",
            show_default=False,
        ),
    ] = None
    max_drop: Annotated[
        Optional[float],
        typer.Option(
            metavar="POINTS",
            help="Find the smallest model that loses at most this many points of accuracy, "
            "instead of --keep. For other tasks: points of label accuracy, cosine or R², units of "
            "the --eval score, or percent of the perplexity.",
            show_default=False,
        ),
    ] = None
    rank_multiple: Annotated[
        Optional[int],
        typer.Option(
            metavar="N",
            min=1,
            help="Under a budget or an accuracy limit, make all ranks and widths multiples of N. "
            "[default: 8 for --budget-latency, else 1]",
            show_default=False,
        ),
    ] = None
    share_inputs: Annotated[
        bool,
        typer.Option(
            "--share-inputs",
            help="Under a budget or an accuracy limit, let layers that read the same input share "
            "their first factor.",
        ),
    ] = False
    per_block: Annotated[
        bool,
        typer.Option(
            "--per-block",
            help="With --layout narrow or auto, give each hidden layer of a directory a width of "
            "its own. config.json can give only one width, so the directory needs the loader.",
        ),
    ] = False

    def build_budget(self) -> Budget | None:
        """Make the one budget that was given, in its unit.

        Raises:
            UsageError: there is more than one.
        """
        from rmtcli.planning import Budget

        amounts = {
            "parameters": self.budget,
            "bytes": self.budget_bytes,
            "macs": self.budget_macs,
            "ms": self.budget_latency,
        }
        budgets = [Budget(text, unit) for unit, text in amounts.items() if text is not None]
        if len(budgets) > 1:
            raise UsageError(
                "--budget, --budget-bytes, --budget-macs and --budget-latency exclude one another: "
                "give only one"
            )
        return budgets[0] if budgets else None
