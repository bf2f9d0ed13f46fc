"""Options: plans to carry out and to write."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Optional

import typer

from rmtcli.errors import UsageError

if TYPE_CHECKING:
    from rmtcli import Plan


@dataclass(frozen=True, slots=True)
class PlanOptions:
    """Options of files of :class:`rmtcli.Plan`."""

    apply: Annotated[
        Optional[Path],
        typer.Option(
            "--apply",
            metavar="PLAN",
            help="Carry out a plan instead of --keep, after checking that it was made for these "
            "weights.",
            show_default=False,
        ),
    ] = None
    write: Annotated[
        Optional[Path],
        typer.Option(
            "--plan",
            metavar="FILE",
            help="Also write the plan, as JSON that can be read and edited.",
            show_default=False,
        ),
    ] = None

    def check(self, bits: str | None, budget_bytes: str | None) -> None:
        """Make sure that a plan can hold what will be decided.

        Raises:
            UsageError: bits will be chosen as well.
        """
        chosen = bits == "auto" or (bits is None and budget_bytes is not None)
        if self.write is not None and chosen:
            raise UsageError(
                "a plan holds ranks and widths, but no bits: with --plan, give --bits none or a "
                "number of bits"
            )

    def save(self, plan: Plan | None) -> None:
        """Write a plan, if that was asked for and there is one."""
        if self.write is not None and plan is not None:
            from rmtcli.files import write_text

            write_text(self.write, plan.to_json())
