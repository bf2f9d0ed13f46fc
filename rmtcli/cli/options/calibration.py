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
            metavar="FILE",
            help="Inputs to calibrate on: 'train_inputs', or 'inputs'; or text. With --budget and "
            "--max-drop the 'train_inputs' of --data are taken by default.",
            show_default=False,
        ),
    ] = None
    batch: Annotated[
        int,
        typer.Option(
            "--calib-batch", metavar="N", min=1, help="Calibration samples that run at a time."
        ),
    ] = 256
    metric: Annotated[
        str,
        typer.Option(
            metavar="two-sided|one-sided",
            help="Calibrate on the layers' inputs and output gradients, or on inputs alone.",
        ),
    ] = "two-sided"
    stats: Annotated[
        Optional[Path],
        typer.Option(
            metavar="FILE",
            help="What calibration found out, .safetensors: read if it is there, else written.",
            show_default=False,
        ),
    ] = None
    sequential: Annotated[
        bool,
        typer.Option(
            "--sequential",
            help="Fit each layer once more on what the compressed layers before it give.",
        ),
    ] = False
    heal: Annotated[
        int,
        typer.Option(
            metavar="N",
            min=0,
            help="Passes in which the factors learn the dense network's outputs; no labels.",
        ),
    ] = 0

    def build(self) -> Calibration:
        """Make the library's value."""
        from rmtcli import Calibration

        return Calibration(**given(self))
