"""Options: how a network is scored."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Optional

import typer

from rmtcli.cli.groups import given

if TYPE_CHECKING:
    from rmtcli import Evaluation


@dataclass(frozen=True, slots=True)
class EvaluationOptions:
    """Options of :class:`rmtcli.Evaluation`."""

    data: Annotated[
        Optional[Path],
        typer.Option(
            metavar="FILE",
            help="Held-out samples: .npz or .safetensors with 'inputs' and, for accuracy or R², "
            "'targets', or x.npy,y.npy; for a network that reads text, .txt (one text per line) or "
            ".jsonl ('text', 'label').",
            show_default=False,
        ),
    ] = None
    model: Annotated[
        Optional[str],
        typer.Option(
            metavar="PACKAGE.MODULE:FACTORY",
            help="Function or class that gives the dense network, or the network itself; "
            "from a file: net.py:Net. By default, a chain of linear layers is inferred from the "
            "checkpoint.",
            show_default=False,
        ),
    ] = None
    activation: Annotated[
        Optional[str],
        typer.Option(
            metavar="NAME",
            help="Activation between the layers of an inferred chain: relu, gelu, silu, tanh, "
            "sigmoid, identity. [default: relu, or with targets the one that scores best]",
            show_default=False,
        ),
    ] = None
    score: Annotated[
        Optional[str],
        typer.Option(
            "--eval",
            metavar="PACKAGE.MODULE:FUNCTION",
            help="Your own score: a function that takes the network and returns a number.",
            show_default=False,
        ),
    ] = None
    task: Annotated[
        Optional[str],
        typer.Option(
            metavar="NAME[:OPTION=VALUE,…]",
            help="What the network's outputs are: of your own network, classification, "
            "multi-label-classification, embedding or regression [default: inferred from targets "
            "and outputs]; of a Hugging Face directory, a task of 'rmtcli methods' [default: read "
            "from its files].",
            show_default=False,
        ),
    ] = None
    device: Annotated[
        str,
        typer.Option(
            metavar="NAME",
            help="Device on which networks run and layers are decomposed: cpu, cuda, mps "
            "(networks only), or auto for the accelerator that torch has.",
        ),
    ] = "cpu"

    def build(self) -> Evaluation:
        """Make the library's value."""
        from rmtcli import Evaluation

        return Evaluation(**given(self))
