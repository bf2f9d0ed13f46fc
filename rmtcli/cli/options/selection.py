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
            metavar="NAME|GLOB",
            help="Treat only these tensors as layers: the name of a tensor or module, or a pattern "
            "such as 'encoder.*' (repeatable). The full name of a layer selects it even if it is "
            "an output head.",
            show_default=False,
        ),
    ] = None
    exclude: Annotated[
        Optional[list[str]],
        typer.Option(
            metavar="NAME|GLOB",
            help="Leave these tensors unchanged (repeatable).",
            show_default=False,
        ),
    ] = None
    min_side: Annotated[
        int,
        typer.Option(
            metavar="N",
            min=0,
            help="Treat a layer with fewer than N outputs as an output head, which is left "
            "unchanged.",
        ),
    ] = 32
    convolutions: Annotated[
        bool,
        typer.Option(
            "--conv",
            help="Treat convolutions as layers: each becomes a convolution to few channels and a "
            "1x1 convolution.",
        ),
    ] = False
    recurrent: Annotated[
        bool,
        typer.Option(
            "--recurrent",
            help="Treat the matrices of LSTMs, GRUs and RNNs as layers; --layout dense truncates "
            "each gate by itself.",
        ),
    ] = False
    embeddings: Annotated[
        bool,
        typer.Option(
            "--embeddings",
            help="Treat look-up tables of tokens as layers: each becomes a table of few columns "
            "and a linear map, which output heads that are tied to it share.",
        ),
    ] = False

    def build(self) -> Selection:
        """Make the library's value."""
        from rmtcli import Selection

        return Selection(**given(self))
