"""``rmtcli verify``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Optional

import typer

from rmtcli.cli.options import Only, OutputOptions
from rmtcli.cli.reporter import Reporter

EXAMPLES = "rmtcli verify small --against MODEL_DIR"


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

    Opens it in fresh processes, after importing rmtcli and with trust_remote_code, and compares the
    outputs with those of the dense product. Fails if a weight is missing, unexpected or of the
    wrong shape, or if the outputs differ.
    """
    from rmtcli import verify
    from rmtcli.report.terminal import show_lines, stdout

    reporter = Reporter.open(outputs, directory, against)
    verification = verify(directory, against=against)
    reporter.show_result(verification, lambda result: show_lines(result.summary(), stdout()))
