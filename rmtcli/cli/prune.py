"""``rmtcli prune``."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Optional

import typer

from rmtcli.cli import options
from rmtcli.cli.output import (
    check_file,
    check_plots,
    check_report,
    draw_layers,
    emit,
    write_text,
)
from rmtcli.cli.progress import listen, progress
from rmtcli.errors import LayerError, UsageError

if TYPE_CHECKING:
    from rmtcli.planning import Budget


def command(
    file: options.Checkpoint,
    output: Annotated[
        Optional[options.Place],
        typer.Option(
            "--output",
            "-o",
            parser=options.to_place,
            metavar="FILE|DIR",
            help="Where to write: a file, its format by its ending; for a directory, a directory. "
            "[default: the input's name with '.pruned' added]",
            show_default=False,
        ),
    ] = None,
    keep: Annotated[
        str,
        typer.Option(
            metavar="NAME[:OPTION=VALUE,…]",
            help="What to keep of each layer; 'rmtcli methods' lists the rules.",
        ),
    ] = "auto",
    edge: options.Edge = "select",
    layout: Annotated[
        str,
        typer.Option(
            metavar="factored|dense",
            help="Two small layers in place of one, or their product under the old name.",
        ),
    ] = "factored",
    include: options.Include = None,
    exclude: options.Exclude = None,
    min_side: options.MinSide = 32,
    conv: options.Conv = False,
    recurrent: options.Recurrent = False,
    budget: options.Budget = None,
    budget_bytes: options.BudgetBytes = None,
    budget_macs: options.BudgetMacs = None,
    budget_latency: options.BudgetLatency = None,
    max_drop: options.MaxDrop = None,
    rank_multiple: options.RankMultiple = 1,
    share_inputs: options.ShareInputs = False,
    data: options.Data = None,
    model: options.Model = None,
    activation: options.Activation = "relu",
    score: options.Score = None,
    task: options.Task = None,
    device: options.Device = "cpu",
    batch: options.Batch = None,
    calib: options.Calib = None,
    calib_batch: options.CalibBatch = 256,
    metric: options.Metric = "two-sided",
    stats: options.Stats = None,
    sequential: options.Sequential = False,
    heal: options.Heal = 0,
    apply: Annotated[
        Optional[Path],
        typer.Option(
            metavar="PLAN",
            help="Carry out a plan, instead of --keep; its layers are checked first.",
            show_default=False,
        ),
    ] = None,
    plan: Annotated[
        Optional[Path],
        typer.Option(
            metavar="FILE",
            help="Write the plan as well: JSON to read and edit.",
            show_default=False,
        ),
    ] = None,
    cache: options.Cache = None,
    executor: options.Executor = None,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Show what would be done; write no checkpoint.")
    ] = False,
    json: options.Json = False,
    plot: options.PlotFolder = None,
    report: options.ReportFile = None,
    fail_if: options.FailIf = None,
    force: options.Force = False,
    no_verify: options.NoVerify = False,
    quiet: options.Quiet = False,
    verbose: options.Verbose = False,
) -> None:
    """Write a rank-reduced checkpoint.

    With --data or --eval, the report says what pruning costs. The input is never changed.
    """
    from rmtcli import Calibration, Evaluation, Selection, prune
    from rmtcli.report.conditions import Condition, reasons, values_of

    listen(quiet=quiet, verbose=verbose)
    inputs = [file, output, data, calib, stats, apply]
    conditions = [Condition.parse(text) for text in fail_if or ()]
    check_report(report, inputs=[*inputs, plan, plot], force=force)
    check_file(plan, ".json", inputs=[*inputs, report, plot], force=force)
    check_plots(plot, inputs=[*inputs, plan, report], force=force)
    result = prune(
        file,
        output,
        keep=keep,
        budget=_budget(parameters=budget, bytes=budget_bytes, macs=budget_macs, ms=budget_latency),
        max_drop=max_drop,
        rank_multiple=rank_multiple,
        share_inputs=share_inputs,
        plan=apply,
        edge=edge,
        layout=layout,
        selection=Selection(include or (), exclude or (), min_side, conv, recurrent),
        evaluation=Evaluation(data, model, activation, score, device, task),
        calibration=Calibration(calib, metric, calib_batch, stats, sequential, heal),
        batches=batch or (),
        dry_run=dry_run,
        refuse=lambda found: reasons(conditions, values_of(found)),
        force=force,
        verify=not no_verify,
        cache=cache,
        executor=executor,
        track=progress,
    )
    if plan is not None and result.plan is not None:
        write_text(plan, result.plan.to_json())
    draw_layers(result, plot)
    emit(result, as_json=json, report_file=report, conditions=conditions)
    if not result.pruned and result.guard is not None:
        raise LayerError(
            f"{file}: nothing can be removed within --max-drop {max_drop}: no checkpoint written"
        )
    if not result.pruned and not dry_run:
        how = f"--keep {keep}" if apply is None else str(apply)
        raise LayerError(f"{file}: no layer can be pruned by {how}: no checkpoint written")


def _budget(**amounts: str | None) -> Budget | None:
    """The one budget that was given, in its unit."""
    from rmtcli.planning import Budget

    given = [Budget(text, unit) for unit, text in amounts.items() if text is not None]
    if len(given) > 1:
        raise UsageError(
            "--budget, --budget-bytes, --budget-macs and --budget-latency exclude one another"
        )
    return given[0] if given else None


command.__name__ = "prune"
