"""``rmtcli verify``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Optional

import typer

from rmtcli.cli.options import Only, OutputOptions


def command(
    *,
    directory: Annotated[
        Path,
        typer.Argument(metavar="DIR", help="Directory with factored layers.", show_default=False),
    ],
    against: Annotated[
        Optional[Path],
        typer.Option(
            metavar="DIR", help="The dense model's directory, to compare with.", show_default=False
        ),
    ] = None,
    outputs: Annotated[OutputOptions, Only("json", "quiet", "verbose")],
) -> None:
    """Open a directory with transformers as its users will.

    In fresh processes, by import and by trust_remote_code, with outputs compared to those of the
    dense product. Fails if a weight is missing, left over or of another shape.
    """
    from rmtcli import verify
    from rmtcli.report.terminal import show_lines, stdout

    reporter = outputs.open(directory, against)
    verification = verify(directory, against=against)
    reporter.show_result(verification, lambda result: show_lines(result.summary(), stdout()))
