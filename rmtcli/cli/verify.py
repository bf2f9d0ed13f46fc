"""``rmtcli verify``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Optional

import typer

from rmtcli.cli import options
from rmtcli.cli.output import emit_found
from rmtcli.cli.progress import listen


def command(
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
    json: options.Json = False,
    quiet: options.Quiet = False,
    verbose: options.Verbose = False,
) -> None:
    """Open a directory with transformers as its users will.

    In fresh processes, by import and by trust_remote_code, with outputs compared to those of the
    dense product. Fails if a weight is missing, left over or of another shape.
    """
    from rmtcli import verify
    from rmtcli.report.terminal import show_lines, stdout

    listen(quiet=quiet, verbose=verbose)
    found = verify(directory, against=against)
    emit_found(found, lambda it: show_lines(it.summary(), stdout()), as_json=json)


command.__name__ = "verify"
