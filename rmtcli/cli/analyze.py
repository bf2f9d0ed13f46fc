"""``rmtcli analyze``."""

from __future__ import annotations

from rmtcli.cli.options import (
    Batch,
    Cache,
    Checkpoint,
    Conv,
    Device,
    Edge,
    Exclude,
    Executor,
    FailIf,
    Force,
    Include,
    Json,
    MinSide,
    PlotFolder,
    Quiet,
    Recurrent,
    ReportFile,
    Verbose,
)
from rmtcli.cli.output import check_plots, check_report, draw_layers, emit
from rmtcli.cli.progress import listen, progress


def command(
    file: Checkpoint,
    edge: Edge = "select",
    include: Include = None,
    exclude: Exclude = None,
    min_side: MinSide = 32,
    conv: Conv = False,
    recurrent: Recurrent = False,
    device: Device = "cpu",
    batch: Batch = None,
    cache: Cache = None,
    executor: Executor = None,
    json: Json = False,
    plot: PlotFolder = None,
    report: ReportFile = None,
    fail_if: FailIf = None,
    force: Force = False,
    quiet: Quiet = False,
    verbose: Verbose = False,
) -> None:
    """Fit the noise of every layer; write nothing.

    Shows each fully connected layer's noise level and edge, how well the law fits, how many
    singular values stand above the edge, and what 'prune --keep auto' would save.
    """
    from rmtcli import Selection, analyze
    from rmtcli.report.conditions import Condition

    listen(quiet=quiet, verbose=verbose)
    conditions = [Condition.parse(text) for text in fail_if or ()]
    check_report(report, inputs=[file, plot], force=force)
    check_plots(plot, inputs=[file, report], force=force)
    selection = Selection(include or (), exclude or (), min_side, conv, recurrent)
    result = analyze(
        file,
        edge=edge,
        selection=selection,
        cache=cache,
        executor=executor,
        batches=batch or (),
        device=device,
        track=progress,
    )
    draw_layers(result, plot)
    emit(result, as_json=json, report_file=report, conditions=conditions)


command.__name__ = "analyze"
