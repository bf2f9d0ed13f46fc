"""``rmtcli curve``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Optional

import typer

from rmtcli.cli.options import (
    Cache,
    CalibrationOptions,
    Checkpoint,
    Edge,
    EvaluationOptions,
    Executor,
    GoalOptions,
    Key,
    Layout,
    Only,
    OutputOptions,
    SelectionOptions,
)
from rmtcli.cli.progress import progress
from rmtcli.cli.reporter import Reporter

EXAMPLES = """\
rmtcli curve model.pt --data samples.npz --plot curve.svg
rmtcli curve model.pt --data samples.npz --bits auto --size 10% --size 5%"""


def command(
    *,
    file: Checkpoint,
    key: Key = None,
    size: Annotated[
        Optional[list[str]],
        typer.Option(
            metavar="N|N%",
            help="Measure a network of N parameters, or of N bytes with --bits (repeatable). "
            "[default: from 80% of the parameters to 2%, or from 25% of the bytes to 1.5%]",
            show_default=False,
        ),
    ] = None,
    edge: Edge = "select",
    layout: Layout = "factored",
    bits: Annotated[
        Optional[str],
        typer.Option(
            metavar="8|6|5|4|3|2|auto|none",
            help="Measure networks in few bits, by their bytes: all matrices in so many bits per "
            "entry, or with 'auto' each in as many as the size chooses for it.",
            show_default=False,
        ),
    ] = None,
    selection: Annotated[SelectionOptions, Only("include", "exclude", "min_side", "convolutions")],
    goal: Annotated[GoalOptions, Only("rank_multiple", "share_inputs", "per_block")],
    evaluation: EvaluationOptions,
    calibration: CalibrationOptions,
    plot: Annotated[
        Optional[Path],
        typer.Option(
            metavar="FILE",
            help="Plot the curve: .svg, .png or .pdf (needs matplotlib).",
            show_default=False,
        ),
    ] = None,
    cache: Cache = None,
    executor: Executor = None,
    outputs: Annotated[OutputOptions, Only("json", "report", "force", "quiet", "verbose")],
) -> None:
    """Measure accuracy against size; write no checkpoint.

    Each network measured is the one that 'prune --budget' would write, or 'prune --budget-bytes'
    with --bits. Each layer is decomposed only once.
    """
    from rmtcli import curve
    from rmtcli.report.plot import ENDINGS, check_plots, draw_curve

    reporter = Reporter.open(
        outputs, file, evaluation.data, calibration.data, calibration.stats, files=[(plot, ENDINGS)]
    )
    if plot is not None:
        check_plots()
    report = curve(
        file,
        key=key,
        sizes=size or (),
        edge=edge,
        layout=layout,
        bits=bits,
        rank_multiple=goal.rank_multiple,
        share_inputs=goal.share_inputs,
        per_block=goal.per_block,
        selection=selection.build(),
        evaluation=evaluation.build(),
        calibration=calibration.build(),
        cache=cache,
        executor=executor,
        track=progress,
    )
    if plot is not None:
        draw_curve(report, plot)
    reporter.show(report)
