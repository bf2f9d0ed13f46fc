"""``rmtcli extract``."""

from __future__ import annotations

from typing import Annotated, Optional

import typer

from rmtcli.cli import options
from rmtcli.cli.options import Only
from rmtcli.cli.progress import progress
from rmtcli.cli.reporter import Reporter
from rmtcli.errors import LayerError

EXAMPLES = """\
rmtcli extract BASE_DIR TUNED_DIR -o adapter
rmtcli extract BASE_DIR TUNED_DIR --max-rank 16 --calib sentences.txt
rmtcli extract base.safetensors tuned.safetensors --style kohya -o lora.safetensors"""


def command(
    *,
    base: Annotated[
        options.PathOrURL,
        typer.Argument(
            parser=options.to_path,
            metavar="BASE",
            help="The network before training: a file, a Hugging Face directory, or the name of a "
            "model on the Hub.",
            show_default=False,
        ),
    ],
    tuned: Annotated[
        options.PathOrURL,
        typer.Argument(
            parser=options.to_path,
            metavar="TUNED",
            help="The network after training.",
            show_default=False,
        ),
    ],
    output: Annotated[
        Optional[options.PathOrURL],
        options.output_option(
            "DIR|FILE",
            "Directory to write; in kohya's style, a .safetensors file. [default: TUNED's "
            "name with '.adapter' added]",
        ),
    ] = None,
    key: options.Key = None,
    keep: options.Keep = "auto",
    edge: options.Edge = "change",
    adapter: options.AdapterOptions,
    goal: Annotated[options.GoalOptions, Only("max_drop")],
    selection: Annotated[
        options.SelectionOptions, Only("include", "exclude", "convolutions", "embeddings")
    ],
    evaluation: options.EvaluationOptions,
    calibration: Annotated[
        options.CalibrationOptions, Only("data", "batch", "metric", "stats", "clean")
    ],
    dry_run: options.DryRun = False,
    outputs: Annotated[
        options.OutputOptions,
        Only("json", "plot", "report", "fail_if", "force", "quiet", "verbose"),
    ],
) -> None:
    """Write the difference of two networks as a LoRA adapter.

    The change of each layer is a signal of low rank in noise of training and rounding: the edge
    between them gives each layer its rank, and a layer whose change is noise gets none. PeftModel
    of peft opens the directory; neither input is changed.
    """
    from rmtcli import extract

    read = base, tuned, evaluation.data, calibration.data, calibration.stats
    reporter = Reporter.open(outputs, *read, output)
    report = extract(
        base,
        tuned,
        output,
        key=key,
        keep=keep,
        budget=adapter.budget,
        max_drop=goal.max_drop,
        max_rank=adapter.max_rank,
        edge=edge,
        whole=adapter.whole or (),
        style=adapter.style,
        prefix=adapter.prefix,
        selection=selection.build(),
        evaluation=evaluation.build(),
        calibration=calibration.build(),
        dry_run=dry_run,
        refuse=reporter.refuse,
        force=outputs.force,
        track=progress,
    )
    reporter.show(report)
    if not report.pruned:
        raise LayerError(f"{tuned}: no layer's change is above its noise: no adapter written")
