"""Options: how the layers are calibrated."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Optional

import typer

from rmtcli.cli.groups import given

if TYPE_CHECKING:
    from rmtcli import Calibration


@dataclass(frozen=True, slots=True)
class CalibrationOptions:
    """Options of :class:`rmtcli.Calibration`."""

    data: Annotated[
        Optional[Path],
        typer.Option(
            "--calib",
            metavar="FILE|tokens|prose|none",
            help="Samples to calibrate on: a file with 'train_inputs' or 'inputs', or with text. "
            "For a directory's network that reads text, also random tokens of its vocabulary, or "
            "English sentences; + joins them: FILE+tokens. Under a budget or an accuracy limit, "
            "the default is the 'train_inputs' of --data, or else tokens+prose.",
            show_default=False,
        ),
    ] = None
    batch: Annotated[
        int,
        typer.Option(
            "--calib-batch",
            metavar="N",
            min=1,
            help="Number of calibration samples per forward pass.",
        ),
    ] = 256
    metric: Annotated[
        str,
        typer.Option(
            metavar="two-sided|one-sided",
            help="Calibrate on the layers' inputs and output gradients (two-sided), or on their "
            "inputs alone.",
        ),
    ] = "two-sided"
    stats: Annotated[
        Optional[Path],
        typer.Option(
            metavar="FILE",
            help="Statistics of the calibration, .safetensors: read if the file exists, otherwise "
            "written.",
            show_default=False,
        ),
    ] = None
    spill: Annotated[
        Optional[Path],
        typer.Option(
            metavar="DIR",
            help="Calibrate and heal a directory's network block by block, and keep the states "
            "between the blocks in DIR instead of in memory. An interrupted run continues from "
            "there; DIR is emptied once the output is written. With --executor, the workers must "
            "reach DIR under the same path.",
            show_default=False,
        ),
    ] = None
    sequential: Annotated[
        bool,
        typer.Option(
            "--sequential",
            help="Fit each layer again, on the outputs of the compressed layers before it.",
        ),
    ] = False
    heal: Annotated[
        int,
        typer.Option(
            metavar="N",
            min=0,
            help="Train the new tensors for N passes to reproduce the dense network's outputs; "
            "needs no labels.",
        ),
    ] = 0
    heal_minutes: Annotated[
        float,
        typer.Option(
            metavar="M",
            min=0,
            help="Train the new tensors for M minutes of wall-clock time; with --heal, until the "
            "first limit.",
        ),
    ] = 0.0
    clean: Annotated[
        str,
        typer.Option(
            metavar="linear|oas|none",
            help="How noise from few samples is removed from the moments: their eigenvalues move "
            "towards their mean, by a share that is estimated from the data.",
        ),
    ] = "linear"

    def build(self) -> Calibration:
        """Make the library's value."""
        from rmtcli import Calibration

        return Calibration(**given(self))
