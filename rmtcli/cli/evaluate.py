"""``rmtcli evaluate``."""

from __future__ import annotations

from typing import Annotated, Optional

import typer

from rmtcli.cli import options
from rmtcli.cli.output import check_report, emit
from rmtcli.cli.progress import listen


def command(
    file: options.Checkpoint,
    against: Annotated[
        Optional[options.Place],
        typer.Option(
            parser=options.to_place,
            metavar="FILE",
            help="The dense checkpoint to compare with.",
            show_default=False,
        ),
    ] = None,
    data: options.Data = None,
    model: options.Model = None,
    activation: options.Activation = "relu",
    score: options.Score = None,
    task: options.Task = None,
    device: options.Device = "cpu",
    json: options.Json = False,
    report: options.ReportFile = None,
    fail_if: options.FailIf = None,
    force: options.Force = False,
    quiet: options.Quiet = False,
    verbose: options.Verbose = False,
) -> None:
    """Score a checkpoint, alone or beside another.

    Factored and dense files are taken alike.
    """
    from rmtcli import Evaluation, evaluate
    from rmtcli.report.conditions import Condition

    listen(quiet=quiet, verbose=verbose)
    conditions = [Condition.parse(text) for text in fail_if or ()]
    check_report(report, inputs=[file, against, data], force=force)
    settings = Evaluation(data, model, activation, score, device, task)
    result = evaluate(file, evaluation=settings, against=against)
    emit(result, as_json=json, report_file=report, conditions=conditions)


command.__name__ = "evaluate"
