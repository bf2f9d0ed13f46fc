"""``rmtcli plot-training``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Optional

import typer

from rmtcli.cli.options import Only, OutputOptions
from rmtcli.cli.reporter import Reporter

EXAMPLES = "rmtcli plot-training log.csv -o training.svg"


def command(
    *,
    log: Annotated[
        Path,
        typer.Argument(metavar="LOG", help="Log of a pruner: .csv or .json.", show_default=False),
    ],
    output: Annotated[
        Optional[Path],
        typer.Option(
            "--output",
            "-o",
            metavar="FILE",
            help="Figure to write: .svg, .png or .pdf. [default: the log's name with the ending "
            ".svg]",
            show_default=False,
        ),
    ] = None,
    outputs: Annotated[OutputOptions, Only("force")],
) -> None:
    """Plot the ranks, parameters and losses of a training run.

    Needs matplotlib. The log is written by a pruner's callback or rmtcli.training.write_log.
    """
    from rmtcli.report.plot import ENDINGS, check_plots, draw_training
    from rmtcli.training import read_log

    output = output or log.with_suffix(".svg")
    Reporter.open(outputs, log, files=[(output, ENDINGS)])
    check_plots()
    draw_training(read_log(log), output)
    print(output)
