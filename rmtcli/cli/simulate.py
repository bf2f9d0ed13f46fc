"""``rmtcli simulate``."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Annotated

import typer

from rmtcli.cli.options import Only, OutputOptions
from rmtcli.cli.reporter import Reporter

EXAMPLES = "rmtcli simulate known.safetensors --rank 5 --shape 512x784"


def command(
    *,
    output: Annotated[
        Path,
        typer.Argument(
            metavar="FILE", help="Checkpoint to write: .safetensors.", show_default=False
        ),
    ],
    shape: Annotated[str, typer.Option(metavar="OUTxIN", help="Shape of every layer.")] = "512x512",
    layers: Annotated[int, typer.Option(metavar="N", min=1, help="Number of layers.")] = 1,
    noise: Annotated[
        str,
        typer.Option(
            metavar="NAME[:OPTION=VALUE,…]", help="Kind of noise; 'rmtcli methods' lists the kinds."
        ),
    ] = "gaussian",
    sigma: Annotated[
        float, typer.Option(metavar="X", help="Standard deviation of one entry of the noise.")
    ] = 1.0,
    rank: Annotated[
        int,
        typer.Option(metavar="K", min=0, help="Number of signal directions planted in each layer."),
    ] = 0,
    times: Annotated[
        float,
        typer.Option(
            metavar="X", help="Strength of these directions, as a multiple of the detection limit."
        ),
    ] = 2.0,
    dtype: Annotated[
        str,
        typer.Option(
            metavar="TYPE", help="Type of the weights: float64, float32, float16 or bfloat16."
        ),
    ] = "float32",
    seed: Annotated[
        int,
        typer.Option(metavar="N", min=0, help="Random seed; the same seed gives the same file."),
    ] = 0,
    outputs: Annotated[OutputOptions, Only("json", "force")],
) -> None:
    """Write a checkpoint whose noise and ranks are known.

    The true noise and ranks are stored in the file's metadata, under 'truth', so that any tool can
    be tested on the file.
    """
    from rmtcli import simulate
    from rmtcli.errors import UsageError

    sides = re.fullmatch(r"(\d{1,9})[x×](\d{1,9})", shape)
    if sides is None:
        raise UsageError(f"--shape {shape}: write it as OUTxIN, such as 1000x784")
    reporter = Reporter.open(outputs, output)
    report = simulate(
        output,
        (int(sides[1]), int(sides[2])),
        layers=layers,
        noise=noise,
        sigma=sigma,
        rank=rank,
        times=times,
        dtype=dtype,
        seed=seed,
        force=outputs.force,
    )
    reporter.show(report)
