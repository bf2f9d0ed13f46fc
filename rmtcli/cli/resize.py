"""``rmtcli resize``."""

from __future__ import annotations

from typing import Annotated, Optional

import typer

from rmtcli.cli.options import (
    DryRun,
    Edge,
    GoalOptions,
    Keep,
    Only,
    OutputOptions,
    PathOrURL,
    output_option,
)
from rmtcli.cli.options.adapters import AdapterArgument, Style
from rmtcli.cli.reporter import Reporter

EXAMPLES = """\
rmtcli resize adapter --dry-run
rmtcli resize adapter --keep energy:fraction=0.95 --max-rank 16 -o small
rmtcli resize style.safetensors --budget 25% -o small.safetensors"""


def command(
    *,
    adapter: AdapterArgument,
    output: Annotated[
        Optional[PathOrURL],
        output_option(
            "FILE|DIR",
            "File or directory to write. [default: the input's name with '.resized' added]",
        ),
    ] = None,
    keep: Keep = "auto",
    edge: Edge = "select",
    goal: Annotated[GoalOptions, Only("budget", "budget_bytes")],
    max_rank: Annotated[
        Optional[int],
        typer.Option(
            metavar="N",
            min=1,
            help="The largest rank of a layer, whatever --keep or a budget say.",
            show_default=False,
        ),
    ] = None,
    style: Style = None,
    dry_run: DryRun = False,
    outputs: Annotated[OutputOptions, Only("json", "force", "quiet", "verbose")],
) -> None:
    """Write a LoRA adapter of lower rank.

    Each layer's change is replaced by its best approximation of a lower rank, with the same scale.
    The report says what share of its norm is kept.
    """
    from rmtcli import resize

    reporter = Reporter.open(outputs, adapter, output)
    result = resize(
        adapter,
        output,
        keep=keep,
        budget=goal.build_budget(),
        max_rank=max_rank,
        edge=edge,
        style=style,
        dry_run=dry_run,
        force=outputs.force,
    )
    reporter.show_resized(result)
