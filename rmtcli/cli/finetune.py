"""``rmtcli finetune``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Optional

import typer

from rmtcli.cli import options
from rmtcli.cli.output import check_report, emit
from rmtcli.cli.progress import listen, progress


def command(
    file: options.Checkpoint,
    data: Annotated[
        Path,
        typer.Option(
            metavar="FILE",
            help="Samples, .npz or .safetensors: 'train_inputs' and 'train_targets' to learn from, "
            "'inputs' and 'targets' to report on.",
            show_default=False,
        ),
    ],
    output: Annotated[
        Optional[Path],
        typer.Option(
            "--output",
            "-o",
            metavar="FILE",
            help="Where to write. [default: the input's name with '.finetuned' added]",
            show_default=False,
        ),
    ] = None,
    keep: Annotated[
        Optional[str],
        typer.Option(
            metavar="NAME[:OPTION=VALUE,…]",
            help="What to keep of each layer of a dense checkpoint. [default: auto]",
            show_default=False,
        ),
    ] = None,
    edge: options.Edge = "select",
    include: options.Include = None,
    exclude: options.Exclude = None,
    min_side: options.MinSide = 32,
    budget: options.Budget = None,
    epochs: Annotated[int, typer.Option(metavar="N", min=1, help="Passes over the samples.")] = 5,
    lr: Annotated[
        float, typer.Option(metavar="X", help="First learning rate of AdamW; it falls to 0.")
    ] = 3e-4,
    batch: Annotated[int, typer.Option(metavar="N", min=1, help="Samples to a step.")] = 128,
    distill: Annotated[
        float,
        typer.Option(
            metavar="SHARE",
            help="Share of the loss that is the distance from the dense network's outputs.",
        ),
    ] = 0.0,
    teacher: Annotated[
        Optional[Path],
        typer.Option(
            metavar="FILE",
            help="The dense network that a factored checkpoint was made from.",
            show_default=False,
        ),
    ] = None,
    seed: Annotated[int, typer.Option(metavar="N", min=0, help="Order of the samples.")] = 0,
    model: options.Model = None,
    activation: options.Activation = "relu",
    device: options.Device = "cpu",
    json: options.Json = False,
    report: options.ReportFile = None,
    fail_if: options.FailIf = None,
    force: options.Force = False,
    no_verify: options.NoVerify = False,
    quiet: options.Quiet = False,
    verbose: options.Verbose = False,
) -> None:
    """Prune a dense checkpoint, or take one that is pruned, and train it for a few epochs.

    All parameters learn, on labels and, with --distill, on the dense network's outputs.
    """
    from rmtcli import Evaluation, Selection, finetune
    from rmtcli.planning import Budget
    from rmtcli.report.conditions import Condition, reasons, values_of
    from rmtcli.running.finetune import Training

    listen(quiet=quiet, verbose=verbose)
    conditions = [Condition.parse(text) for text in fail_if or ()]
    check_report(report, inputs=[file, output, data, teacher], force=force)
    found = finetune(
        file,
        output,
        evaluation=Evaluation(data, model, activation, device=device),
        keep=keep,
        budget=None if budget is None else Budget(budget),
        edge=edge,
        selection=Selection(include or (), exclude or (), min_side),
        teacher=teacher,
        training=Training(epochs, lr, batch, distill, seed),
        refuse=lambda found: reasons(conditions, values_of(found)),
        force=force,
        verify=not no_verify,
        track=progress,
    )
    emit(found, as_json=json, report_file=report, conditions=conditions)


command.__name__ = "finetune"
