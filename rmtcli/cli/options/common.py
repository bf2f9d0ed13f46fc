"""Options and arguments that belong to no group."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Optional

import typer

if TYPE_CHECKING:
    PathOrURL = Path
else:

    class PathOrURL:
        """A path or a URL. Typer below 0.29 turns what is annotated as Path into a local path."""


def to_path(text: str) -> Path:
    """Parse a path or a URL; a file system behind a URL is not contacted yet."""
    from rmtcli.files import as_path  # imported late, as it imports fsspec

    return as_path(text)


def output_option(metavar: str, text: str) -> Any:
    """The option for what a command writes, a path or a URL.

    Args:
        metavar: what it names.
        text: its help.
    """
    return typer.Option(
        "--output", "-o", parser=to_path, metavar=metavar, help=text, show_default=False
    )


Checkpoint = Annotated[
    PathOrURL,
    typer.Argument(
        parser=to_path,
        metavar="FILE|DIR",
        help="Checkpoint: a file, such as .safetensors or .pt, a Hugging Face directory, or the "
        "name of a model on the Hub.",
        show_default=False,
        readable=False,  # Typer does not look at it: opening it reports an error in one line
    ),
]
Key = Annotated[
    Optional[str],
    typer.Option(
        metavar="NAME[.NAME…]",
        help="Which state dict, where a torch file holds several: the keys that lead to it, such "
        "as 'ema' or 'state.generator'.",
        show_default=False,
    ),
]
Keep = Annotated[
    str,
    typer.Option(
        metavar="NAME[:OPTION=VALUE,…]",
        help="Rule for how much of each layer to keep; 'rmtcli methods' lists the rules.",
    ),
]
Layout = Annotated[
    str,
    typer.Option(
        metavar="factored|pivoted|dense|narrow|auto",
        help="How pruned layers are stored: as two small layers; as pivot rows and combinations of "
        "them, which are fewer numbers; or as a matrix of the old size and name. 'narrow' makes "
        "hidden layers narrower instead, and needs --calib and a budget or --max-drop. 'auto' does "
        "both within one budget, and stores each layer in the way that costs least.",
    ),
]
Bits = Annotated[
    Optional[str],
    typer.Option(
        metavar="8|6|5|4|3|2|auto|none",
        help="Store every matrix in so many bits per entry, pruned or not. With --calib, rounding "
        "errors are compensated within each layer; without, 8 bits are safe and 4 may not be. "
        "'auto' chooses the bits of each matrix together with its rank, within --budget-bytes or "
        "--max-drop. [default: auto with --budget-bytes for a .safetensors file or a directory, "
        "else none]",
        show_default=False,
    ),
]
Vocab = Annotated[
    Optional[Path],
    typer.Option(
        metavar="FILE",
        help="Drop the tokens that this text (.txt, .jsonl) never uses, from a directory's "
        "tokenizer and from the tables of its network. Without --keep, --bits, a budget or "
        "--max-drop, nothing else is done.",
        show_default=False,
    ),
]
DryRun = Annotated[
    bool, typer.Option("--dry-run", help="Show what would be done; write no output.")
]
Onnx = Annotated[
    bool,
    typer.Option(
        "--onnx",
        help="Write onnx/model.onnx into the directory too, and check that it computes what torch "
        "computes (needs onnx and onnxruntime).",
    ),
]
Edge = Annotated[
    str,
    typer.Option(
        metavar="NAME[:OPTION=VALUE,…]",
        help="Estimator of the edge between noise and signal; 'rmtcli methods' lists the "
        "estimators.",
    ),
]
Batch = Annotated[
    Optional[list[int]],
    typer.Option(
        metavar="N",
        min=1,
        help="Time forward passes of N samples, before and after pruning (repeatable).",
        show_default=False,
    ),
]
Cache = Annotated[
    Optional[Path],
    typer.Option(
        metavar="DIR",
        help="Store decompositions in this directory and reuse them, so that 'prune' after "
        "'analyze' need not decompose again. It takes at most the size of the weights in float32, "
        "and can be deleted at any time.",
        show_default=False,
    ),
]
Executor = Annotated[
    Optional[str],
    typer.Option(
        metavar="dask://HOST:PORT",
        help="Calibrate and decompose on a Dask cluster, whose workers must reach the checkpoint "
        "and the data under the same paths (needs distributed).",
        show_default=False,
    ),
]
