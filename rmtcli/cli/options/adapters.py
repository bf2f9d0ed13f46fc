"""Options and arguments of the commands for adapters."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Optional

import typer

from rmtcli.cli.options.common import PathOrURL, to_path

AdapterArgument = Annotated[
    PathOrURL,
    typer.Argument(
        parser=to_path,
        metavar="ADAPTER",
        help="LoRA adapter: a directory of PEFT, a file in kohya's style, or the name of an "
        "adapter on the Hub.",
        show_default=False,
        readable=False,
    ),
]
Style = Annotated[
    Optional[str],
    typer.Option(
        "--style",
        metavar="peft|kohya",
        help="Format of the adapter that is written: a directory of PEFT, or a .safetensors file "
        "with kohya's names. [default: the input's]",
        show_default=False,
    ),
]


@dataclass(frozen=True, slots=True)
class AdapterOptions:
    """Options of an adapter that is written."""

    budget: Annotated[
        Optional[str],
        typer.Option(
            metavar="N|N%",
            help="Choose the best ranks for an adapter whose factors have N parameters, or N% of "
            "those of its base, instead of --keep.",
            show_default=False,
        ),
    ] = None
    max_rank: Annotated[
        Optional[int],
        typer.Option(
            metavar="N",
            min=1,
            help="Largest rank of a layer. vLLM refuses ranks above its own --max-lora-rank, which "
            "is 16 by default.",
            show_default=False,
        ),
    ] = None
    whole: Annotated[
        Optional[list[str]],
        typer.Option(
            metavar="NAME|GLOB",
            help="Store these tensors whole if they changed, such as an embedding or an output "
            "head, like PEFT's modules_to_save (repeatable). In PEFT's style, extract always "
            "stores biases, normalisations and tables with new rows.",
            show_default=False,
        ),
    ] = None
    style: Annotated[
        str,
        typer.Option(
            metavar="peft|kohya",
            help="A directory that peft opens, or one file as sd-scripts writes it.",
        ),
    ] = "peft"
    prefix: Annotated[
        str,
        typer.Option(
            metavar="TEXT", help="In kohya's style: what the names of modules begin with."
        ),
    ] = "lora_unet"
