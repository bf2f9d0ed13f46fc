"""``rmtcli finetune``."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Annotated, Optional

import typer

from rmtcli.cli.options import (
    Checkpoint,
    Edge,
    EvaluationOptions,
    GoalOptions,
    Key,
    Only,
    OutputOptions,
    SelectionOptions,
    TrainingOptions,
)
from rmtcli.cli.progress import progress
from rmtcli.cli.reporter import Reporter

EXAMPLES = "rmtcli finetune model.pt --budget 10% --data samples.npz --distill 0.5"


def command(
    *,
    file: Checkpoint,
    data: Annotated[
        Path,
        typer.Option(
            metavar="FILE",
            help="Samples, .npz or .safetensors: 'train_inputs' and 'train_targets' to train on, "
            "'inputs' and 'targets' to evaluate on.",
            show_default=False,
        ),
    ],
    output: Annotated[
        Optional[Path],
        typer.Option(
            "--output",
            "-o",
            metavar="FILE",
            help="File to write. [default: the input's name with '.finetuned' added]",
            show_default=False,
        ),
    ] = None,
    key: Key = None,
    keep: Annotated[
        Optional[str],
        typer.Option(
            metavar="NAME[:OPTION=VALUE,…]",
            help="Rule for how much of each layer of a dense checkpoint to keep. [default: auto]",
            show_default=False,
        ),
    ] = None,
    edge: Edge = "select",
    selection: Annotated[SelectionOptions, Only("include", "exclude", "min_side")],
    goal: Annotated[GoalOptions, Only("budget")],
    training: TrainingOptions,
    teacher: Annotated[
        Optional[Path],
        typer.Option(
            metavar="FILE",
            help="The dense checkpoint that a factored one was made from.",
            show_default=False,
        ),
    ] = None,
    evaluation: Annotated[EvaluationOptions, Only("model", "activation", "device")],
    outputs: Annotated[
        OutputOptions,
        Only("json", "report", "fail_if", "force", "no_verify", "quiet", "verbose"),
    ],
) -> None:
    """Train a pruned checkpoint; a dense one is pruned first.

    All parameters are trained for a few epochs, on labels and, with --distill, on the dense
    network's outputs.
    """
    from rmtcli import finetune

    reporter = Reporter.open(outputs, file, output, data, teacher)
    report = finetune(
        file,
        output,
        key=key,
        evaluation=replace(evaluation, data=data).build(),
        keep=keep,
        budget=goal.build_budget(),
        edge=edge,
        selection=selection.build(),
        teacher=teacher,
        training=training.build(),
        refuse=reporter.refuse,
        force=outputs.force,
        verify=not outputs.no_verify,
        track=progress,
    )
    reporter.show(report)
