"""Options that several commands share, each written once."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Optional

import typer

if TYPE_CHECKING:
    Place = Path
else:

    class Place:
        """A path or a URL. Of what is annotated as a path, Typer below 0.29 makes a local one."""


def to_place(text: str) -> Path:
    """A path, or a URL's place; the file system behind a URL is asked for nothing yet."""
    from rmtcli.files import as_path  # as late as all that reads checkpoints

    return as_path(text)


Checkpoint = Annotated[
    Place,
    typer.Argument(
        parser=to_place,
        metavar="FILE|DIR",
        help="Checkpoint: .safetensors, .pt, .pth, .bin, .ckpt, .pt2, or a Hugging Face directory.",
        show_default=False,
        readable=False,  # not looked at before: opening it tells in one line
    ),
]
Edge = Annotated[
    str,
    typer.Option(
        metavar="NAME[:OPTION=VALUE,…]",
        help="How the edge between noise and signal is estimated; 'rmtcli methods' lists them.",
    ),
]
Include = Annotated[
    Optional[list[str]],
    typer.Option(
        metavar="GLOB",
        help="Only these tensors are layers (repeatable). A whole name takes an output head too.",
        show_default=False,
    ),
]
Exclude = Annotated[
    Optional[list[str]],
    typer.Option(metavar="GLOB", help="Leave these tensors out (repeatable).", show_default=False),
]
MinSide = Annotated[
    int,
    typer.Option(
        metavar="N", min=0, help="A layer with fewer outputs is an output head, and left alone."
    ),
]
Conv = Annotated[
    bool,
    typer.Option(
        "--conv",
        help="Convolutions are layers too: a kernel becomes one to few channels, and a 1x1 one.",
    ),
]
Recurrent = Annotated[
    bool,
    typer.Option(
        "--recurrent",
        help="The gates of LSTMs and GRUs are layers too; only --layout dense changes them.",
    ),
]
Data = Annotated[
    Optional[Path],
    typer.Option(
        metavar="FILE",
        help="Held-out samples, .npz or .safetensors: 'inputs' and, for accuracy, 'targets'; for "
        "a network that reads text, .txt (one a line) or .jsonl ('text', 'label').",
        show_default=False,
    ),
]
Model = Annotated[
    Optional[str],
    typer.Option(
        metavar="PACKAGE.MODULE:FACTORY",
        help="Makes the dense network. Without it, a chain of linear layers is inferred.",
        show_default=False,
    ),
]
Activation = Annotated[
    str,
    typer.Option(
        metavar="NAME",
        help="Between the layers of an inferred chain: relu, gelu, silu, tanh, sigmoid, identity.",
    ),
]
Score = Annotated[
    Optional[str],
    typer.Option(
        "--eval",
        metavar="PACKAGE.MODULE:FUNCTION",
        help="Your own score: takes the network, returns a number.",
        show_default=False,
    ),
]
Device = Annotated[
    str,
    typer.Option(
        metavar="NAME",
        help="Where networks run and layers are decomposed: cpu, cuda, mps (networks only).",
    ),
]
Task = Annotated[
    Optional[str],
    typer.Option(
        metavar="NAME[:OPTION=VALUE,…]",
        help="What a Hugging Face directory is used for; 'rmtcli methods' lists them. "
        "[default: what its files tell]",
        show_default=False,
    ),
]
Calib = Annotated[
    Optional[Path],
    typer.Option(
        metavar="FILE",
        help="Inputs to calibrate on: 'train_inputs', or 'inputs'; or text. With --budget and "
        "--max-drop the 'train_inputs' of --data are taken by default.",
        show_default=False,
    ),
]
CalibBatch = Annotated[
    int, typer.Option(metavar="N", min=1, help="Calibration samples that run at a time.")
]
Metric = Annotated[
    str,
    typer.Option(
        metavar="two-sided|one-sided",
        help="Calibrate on the layers' inputs and output gradients, or on inputs alone.",
    ),
]
Stats = Annotated[
    Optional[Path],
    typer.Option(
        metavar="FILE",
        help="What calibration found out, .safetensors: read if it is there, else written.",
        show_default=False,
    ),
]
Sequential = Annotated[
    bool,
    typer.Option(
        "--sequential",
        help="Fit each layer once more on what the compressed layers before it give.",
    ),
]
Heal = Annotated[
    int,
    typer.Option(
        metavar="N",
        min=0,
        help="Passes in which the factors learn the dense network's outputs; no labels.",
    ),
]
Budget = Annotated[
    Optional[str],
    typer.Option(
        metavar="N|N%",
        help="Best ranks for a model of this many parameters, instead of --keep.",
        show_default=False,
    ),
]
BudgetBytes = Annotated[
    Optional[str],
    typer.Option(metavar="N|N%", help="The same, in bytes of the tensors.", show_default=False),
]
BudgetMacs = Annotated[
    Optional[str],
    typer.Option(
        metavar="N|N%",
        help="The same, in multiply-adds of the fully connected layers.",
        show_default=False,
    ),
]
BudgetLatency = Annotated[
    Optional[str],
    typer.Option(
        metavar="MS|N%",
        help="The same, in milliseconds of the linear layers' forward passes, measured here at "
        "the --batch.",
        show_default=False,
    ),
]
Executor = Annotated[
    Optional[str],
    typer.Option(
        metavar="dask://HOST:PORT",
        help="Decompose layers on a Dask cluster, which must reach the checkpoint under the same "
        "path or URL (needs rmtcli[dask]).",
        show_default=False,
    ),
]
Batch = Annotated[
    Optional[list[int]],
    typer.Option(
        metavar="N",
        min=1,
        help="Measure forward times, before and after, on so many samples (repeatable).",
        show_default=False,
    ),
]
MaxDrop = Annotated[
    Optional[float],
    typer.Option(
        metavar="POINTS",
        help="Smallest model that loses no more accuracy (or own score), instead of --keep.",
        show_default=False,
    ),
]
RankMultiple = Annotated[
    int,
    typer.Option(metavar="N", min=1, help="Ranks under a budget or limit are multiples of this."),
]
FailIf = Annotated[
    Optional[list[str]],
    typer.Option(
        metavar="CONDITION",
        help="Exit with 1, and write no checkpoint, if this holds, such as 'accuracy.drop > 0.5' "
        "(repeatable); docs/ci.md lists the fields.",
        show_default=False,
    ),
]
ShareInputs = Annotated[
    bool,
    typer.Option(
        "--share-inputs",
        help="Under a budget or limit, layers that read the same input share their first factor.",
    ),
]
Cache = Annotated[
    Optional[Path],
    typer.Option(
        metavar="DIR",
        help="Keep decompositions in this folder, and look them up: 'prune' after 'analyze' needs "
        "no second one. At most as large as the weights in float32; delete it at will.",
        show_default=False,
    ),
]
NoVerify = Annotated[
    bool,
    typer.Option(
        "--no-verify", help="Do not read the output back and compare it before it gets its name."
    ),
]
Force = Annotated[bool, typer.Option("--force", help="Replace files that exist; never an input.")]
Json = Annotated[
    bool, typer.Option("--json", help="Print the report as JSON, and nothing else, on stdout.")
]
ReportFile = Annotated[
    Optional[Path],
    typer.Option(
        "--report",
        metavar="FILE",
        help="Write the report as well: .html (needs rmtcli[report]), .md, .json, or .xml for "
        "JUnit (needs rmtcli[ci]).",
        show_default=False,
    ),
]
PlotFolder = Annotated[
    Optional[Path],
    typer.Option(
        "--plot",
        metavar="DIR",
        help="Draw each layer's spectrum: .svg, .pdf, .png, and the numbers as .csv (needs "
        "rmtcli[report]).",
        show_default=False,
    ),
]
Quiet = Annotated[
    bool,
    typer.Option(
        "--quiet", "-q", help="Print nothing but errors, and JSON where --json asks for it."
    ),
]
Verbose = Annotated[
    bool, typer.Option("--verbose", "-v", help="Say on stderr what is done, step by step.")
]
