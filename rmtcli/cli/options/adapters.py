"""Options and arguments of the commands for adapters."""

from __future__ import annotations

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
