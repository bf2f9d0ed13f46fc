"""``rmtcli evaluate``."""

from __future__ import annotations

from typing import Annotated, Optional

import typer

from rmtcli.cli.options import (
    Checkpoint,
    EvaluationOptions,
    Key,
    Only,
    OutputOptions,
    PathOrURL,
    to_path,
)
from rmtcli.cli.reporter import Reporter

EXAMPLES = "rmtcli evaluate small.pt --against model.pt --data samples.npz"


def command(
    *,
    file: Checkpoint,
    key: Key = None,
    against: Annotated[
        Optional[PathOrURL],
        typer.Option(
            parser=to_path,
            metavar="FILE",
            help="The dense checkpoint to compare with.",
            show_default=False,
        ),
    ] = None,
    evaluation: EvaluationOptions,
    outputs: Annotated[
        OutputOptions, Only("json", "report", "fail_if", "force", "quiet", "verbose")
    ],
) -> None:
    """Score a checkpoint, alone or against another.

    Both may be factored or dense.
    """
    from rmtcli import evaluate

    reporter = Reporter.open(outputs, file, against, evaluation.data)
    reporter.show(evaluate(file, key=key, evaluation=evaluation.build(), against=against))
