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
    Only,
    OutputOptions,
    SelectionOptions,
    TrainingOptions,
)
from rmtcli.cli.progress import progress


def command(
    *,
    file: Checkpoint,
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
    edge: Edge = "select",
    selection: Annotated[SelectionOptions, Only("include", "exclude", "min_side")],
    goal: Annotated[GoalOptions, Only("budget")],
    training: TrainingOptions,
    teacher: Annotated[
        Optional[Path],
        typer.Option(
            metavar="FILE",
            help="The dense network that a factored checkpoint was made from.",
            show_default=False,
        ),
    ] = None,
    evaluation: Annotated[EvaluationOptions, Only("model", "activation", "device")],
    outputs: Annotated[
        OutputOptions,
        Only("json", "report", "fail_if", "force", "no_verify", "quiet", "verbose"),
    ],
) -> None:
    """Prune a dense checkpoint, or take one that is pruned, and train it for a few epochs.

    All parameters learn, on labels and, with --distill, on the dense network's outputs.
    """
    from rmtcli import finetune

    reporter = outputs.open(file, output, data, teacher)
    report = finetune(
        file,
        output,
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
