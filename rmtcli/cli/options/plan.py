"""Options: plans to carry out and to write."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Optional

import typer


@dataclass(frozen=True, slots=True)
class PlanOptions:
    """Options of files of :class:`rmtcli.Plan`."""

    apply: Annotated[
        Optional[Path],
        typer.Option(
            "--apply",
            metavar="PLAN",
            help="Carry out a plan, instead of --keep; its layers are checked first.",
            show_default=False,
        ),
    ] = None
    write: Annotated[
        Optional[Path],
        typer.Option(
            "--plan",
            metavar="FILE",
            help="Write the plan as well: JSON to read and edit.",
            show_default=False,
        ),
    ] = None
