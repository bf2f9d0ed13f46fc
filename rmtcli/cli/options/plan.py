"""Options: plans to carry out and to write."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Optional

import typer

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

    def save(self, plan: Plan | None) -> None:
        """Write a plan, if that was asked for and there is one."""
        if self.write is not None and plan is not None:
            from rmtcli.files import write_text

            write_text(self.write, plan.to_json())
