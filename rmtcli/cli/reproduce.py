"""``rmtcli reproduce``."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated, Optional

import typer

from rmtcli.cli.options import Only, OutputOptions
from rmtcli.cli.reporter import Reporter

EXAMPLES = "rmtcli reproduce label-noise --data FOLDER --seeds 3"


def command(
    *,
    name: Annotated[
        str,
        typer.Argument(
            metavar="NAME",
            help="Experiment: mnist-pretrained, mnist-training, label-noise, fashion-narrow, "
            "fashion or fashion-deep.",
            show_default=False,
        ),
    ],
    data: Annotated[
        Path,
        typer.Option(
            metavar="DIR",
            help="Directory with the four IDX files of MNIST or Fashion-MNIST.",
            show_default=False,
        ),
    ],
    seeds: Annotated[int, typer.Option(metavar="N", min=1, help="Number of runs of each row.")] = 5,
    rows: Annotated[
        str, typer.Option(metavar="GLOB", help="Run only the rows whose title matches.")
    ] = "*",
    epochs: Annotated[
        Optional[int],
        typer.Option(
            metavar="N",
            min=1,
            help="Passes over the images. [default: as published]",
            show_default=False,
        ),
    ] = None,
    output: Annotated[
        Optional[Path],
        typer.Option(
            "--output",
            "-o",
            metavar="FILE",
            help="File of results, .json, written after each run; runs that it already holds are "
            "not repeated.",
            show_default=False,
        ),
    ] = None,
    outputs: Annotated[OutputOptions, Only("json")],
) -> None:
    """Reproduce a published experiment, with its baselines.

    Prints means and spreads over several seeds; docs/reproduction.md compares the published claims
    with our measurements.
    """
    from rmtcli import reproduce
    from rmtcli.report.terminal import show_reproduction, stdout

    def watch(line: str) -> None:
        print(line, file=sys.stderr, flush=True)

    reporter = Reporter.open(outputs, data)
    reproduction = reproduce(
        name, data, seeds=seeds, rows=rows, epochs=epochs, output=output, watch=watch
    )
    reporter.show_result(reproduction, lambda result: show_reproduction(result, stdout()))
