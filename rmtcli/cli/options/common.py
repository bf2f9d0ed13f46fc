"""Options and arguments that belong to no group."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Optional

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


Checkpoint = Annotated[
    PathOrURL,
    typer.Argument(
        parser=to_path,
        metavar="FILE|DIR",
        help="Checkpoint: a file, such as .safetensors or .pt, or a Hugging Face directory.",
        show_default=False,
        readable=False,  # not looked at before: opening it tells in one line
    ),
]
Keep = Annotated[
    str,
    typer.Option(
        metavar="NAME[:OPTION=VALUE,…]",
        help="What to keep of each layer; 'rmtcli methods' lists the rules.",
    ),
]
Layout = Annotated[
    str,
    typer.Option(
        metavar="factored|dense",
        help="Two small layers in place of one, or their product under the old name.",
    ),
]
Edge = Annotated[
    str,
    typer.Option(
        metavar="NAME[:OPTION=VALUE,…]",
        help="How the edge between noise and signal is estimated; 'rmtcli methods' lists them.",
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
Cache = Annotated[
    Optional[Path],
    typer.Option(
        metavar="DIR",
        help="Keep decompositions in this folder, and look them up: 'prune' after 'analyze' needs "
        "no second one. At most as large as the weights in float32; delete it at will.",
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
