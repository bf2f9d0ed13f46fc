"""``rmtcli densify``."""

from __future__ import annotations

from typing import Annotated

import typer

from rmtcli.cli import options
from rmtcli.cli.output import emit
from rmtcli.cli.progress import listen


def command(
    file: options.Checkpoint,
    output: Annotated[
        options.Place,
        typer.Option(
            "--output",
            "-o",
            parser=options.to_place,
            metavar="FILE|DIR",
            help="File to write; for a directory, a directory.",
            show_default=False,
        ),
    ],
    json: options.Json = False,
    force: options.Force = False,
    no_verify: options.NoVerify = False,
    quiet: options.Quiet = False,
    verbose: options.Verbose = False,
) -> None:
    """Multiply factors back into dense weights."""
    from rmtcli import densify

    listen(quiet=quiet, verbose=verbose)
    emit(densify(file, output, force=force, verify=not no_verify), as_json=json, report_file=None)


command.__name__ = "densify"
