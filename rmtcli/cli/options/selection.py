"""Options: which tensors are layers."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Optional

import typer

from rmtcli.cli.groups import given

if TYPE_CHECKING:
    from rmtcli import Selection


@dataclass(frozen=True, slots=True)
class SelectionOptions:
    """Options of :class:`rmtcli.Selection`."""

    include: Annotated[
        Optional[list[str]],
        typer.Option(
            metavar="GLOB",
            help="Only these tensors are layers (repeatable). A whole name takes an output head "
            "too.",
            show_default=False,
        ),
    ] = None
    exclude: Annotated[
        Optional[list[str]],
        typer.Option(
            metavar="GLOB", help="Leave these tensors out (repeatable).", show_default=False
        ),
    ] = None
    min_side: Annotated[
        int,
        typer.Option(
            metavar="N",
            min=0,
            help="A layer with fewer outputs is an output head, and left alone.",
        ),
    ] = 32
    convolutions: Annotated[
        bool,
        typer.Option(
            "--conv",
            help="Convolutions are layers too: a kernel becomes one to few channels, and a 1x1 "
            "one.",
        ),
    ] = False
    recurrent: Annotated[
        bool,
        typer.Option(
            "--recurrent",
            help="The gates of LSTMs and GRUs are layers too; only --layout dense changes them.",
        ),
    ] = False

    def build(self) -> Selection:
        """Make the library's value."""
        from rmtcli import Selection

        return Selection(**given(self))
