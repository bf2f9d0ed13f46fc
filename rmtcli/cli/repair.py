"""``rmtcli repair``."""

from __future__ import annotations

from typing import Annotated, Optional

import typer

from rmtcli.cli import options
from rmtcli.cli.options import Only
from rmtcli.cli.progress import progress
from rmtcli.cli.reporter import Reporter
from rmtcli.errors import LayerError

EXAMPLES = """\
rmtcli repair model.safetensors model.4bit.safetensors --calib samples.npz
rmtcli repair MODEL_DIR SMALL_DIR --stats moments.safetensors --max-rank 16 -o repair"""


def command(
    *,
    dense: Annotated[
        options.PathOrURL,
        typer.Argument(
            parser=options.to_path,
            metavar="DENSE",
            help="The dense network: a file, a Hugging Face directory, or the name of a model on "
            "the Hub.",
            show_default=False,
        ),
    ],
    small: Annotated[
        options.PathOrURL,
        typer.Argument(
            parser=options.to_path,
            metavar="SMALL",
            help="The network in few bits, or pruned: the base of the adapter.",
            show_default=False,
        ),
    ],
    output: Annotated[
        Optional[options.PathOrURL],
        options.output_option(
            "DIR|FILE",
            "Directory to write; in kohya's style, a .safetensors file. [default: SMALL's "
            "name with '.repair' added]",
        ),
    ] = None,
    key: options.Key = None,
    keep: options.Keep = "auto",
    edge: options.Edge = "change",
    adapter: options.AdapterOptions,
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
    """Write a LoRA adapter that brings a small network closer to the dense one.

    The adapter restores part of what rounding or pruning removed from each layer: the directions
    of the error that are above the edge. With --calib or --stats, errors are measured in the metric
    of the layer's inputs and gradients. A layer with nothing above the edge gets no adapter.
    """
    from rmtcli import repair

    read = dense, small, evaluation.data, calibration.data, calibration.stats
    reporter = Reporter.open(outputs, *read, output)
    report = repair(
        dense,
        small,
        output,
        key=key,
        keep=keep,
        budget=adapter.budget,
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
        raise LayerError(f"{small}: no layer's loss is above the edge: no adapter written")
