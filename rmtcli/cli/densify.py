"""``rmtcli densify``."""

from __future__ import annotations

from typing import Annotated, Optional

import typer

from rmtcli.cli.options import (
    Checkpoint,
    Key,
    Only,
    OutputOptions,
    PathOrURL,
    output_option,
    to_path,
)
from rmtcli.cli.reporter import Reporter

EXAMPLES = """\
rmtcli densify model.pruned.pt
rmtcli densify small.pt -o dense.pt"""


def command(
    *,
    file: Checkpoint,
    output: Annotated[
        Optional[PathOrURL],
        output_option(
            "FILE|DIR",
            "File to write, in the format of its ending; for a directory, the directory to "
            "write. [default: the input's name with '.dense' in place of '.pruned']",
        ),
    ] = None,
    key: Key = None,
    record: Annotated[
        PathOrURL | None,
        typer.Option(
            "--record",
            parser=to_path,
            metavar="FILE|DIR",
            help="The file that prune wrote, if another program has saved it again: its record "
            "says which layers are factors. Without it, rmtcli infers them from names and norms.",
            show_default=False,
        ),
    ] = None,
    outputs: Annotated[OutputOptions, Only("json", "force", "no_verify", "quiet", "verbose")],
) -> None:
    """Multiply factors back into dense weights."""
    from rmtcli import densify

    reporter = Reporter.open(outputs, file, output, record)
    verify = not outputs.no_verify
    report = densify(file, output, key=key, record=record, force=outputs.force, verify=verify)
    reporter.show(report)
