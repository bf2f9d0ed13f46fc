"""``rmtcli curve``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Optional

import typer

from rmtcli.cli import options
from rmtcli.cli.output import check_file, check_report, emit
from rmtcli.cli.progress import listen, progress


def command(
    file: options.Checkpoint,
    size: Annotated[
        Optional[list[str]],
        typer.Option(
            metavar="N|N%",
            help="Parameters of a network to measure (repeatable). [default: from 80% to 2%]",
            show_default=False,
        ),
    ] = None,
    edge: options.Edge = "select",
    include: options.Include = None,
    exclude: options.Exclude = None,
    min_side: options.MinSide = 32,
    conv: options.Conv = False,
    rank_multiple: options.RankMultiple = 1,
    share_inputs: options.ShareInputs = False,
    data: options.Data = None,
    model: options.Model = None,
    activation: options.Activation = "relu",
    score: options.Score = None,
    task: options.Task = None,
    device: options.Device = "cpu",
    calib: options.Calib = None,
    calib_batch: options.CalibBatch = 256,
    metric: options.Metric = "two-sided",
    stats: options.Stats = None,
    sequential: options.Sequential = False,
    heal: options.Heal = 0,
    plot: Annotated[
        Optional[Path],
        typer.Option(
            metavar="FILE",
            help="Draw the curve: .svg, .png or .pdf (needs rmtcli[report]).",
            show_default=False,
        ),
    ] = None,
    cache: options.Cache = None,
    json: options.Json = False,
    report: options.ReportFile = None,
    force: options.Force = False,
    quiet: options.Quiet = False,
    verbose: options.Verbose = False,
) -> None:
    """Measure accuracy against size; write no checkpoint.

    Each size is what 'prune --budget' would give; each layer is decomposed once for all of them.
    """
    from rmtcli import Calibration, Evaluation, Selection, curve
    from rmtcli.report.plot import ENDINGS, check_plots, draw_curve

    listen(quiet=quiet, verbose=verbose)
    inputs = [file, data, calib, stats]
    check_report(report, inputs=[*inputs, plot], force=force)
    check_file(plot, *ENDINGS, inputs=[*inputs, report], force=force)
    if plot is not None:
        check_plots()
    result = curve(
        file,
        sizes=size or (),
        edge=edge,
        rank_multiple=rank_multiple,
        share_inputs=share_inputs,
        selection=Selection(include or (), exclude or (), min_side, conv),
        evaluation=Evaluation(data, model, activation, score, device, task),
        calibration=Calibration(calib, metric, calib_batch, stats, sequential, heal),
        cache=cache,
        track=progress,
    )
    if plot is not None:
        draw_curve(result, plot)
    emit(result, as_json=json, report_file=report)


command.__name__ = "curve"
