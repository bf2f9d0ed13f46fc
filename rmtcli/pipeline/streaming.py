"""Calibration block by block, of networks that take much of the memory."""

from __future__ import annotations

from rmtcli.calibration import Folder
from rmtcli.computing import memory
from rmtcli.evaluation import Harness
from rmtcli.options import option
from rmtcli.pipeline.request import Request

#: A network runs block by block if its parameters in float32 take more than this share of the
#: machine's memory. Moments that are being added up take many times as much (docs/scale.md).
SHARE = 1 / 32


def folder_for(harness: Harness, request: Request) -> Folder | None:
    """The folder for the moments of a network that runs block by block; None to run it whole."""
    if not request.calibrates or in_one_piece(harness, request):
        return None
    large = 4 * harness.checkpoint.parameters > SHARE * memory()
    return Folder() if large else None


def in_one_piece(harness: Harness, request: Request) -> str | None:
    """Why a network is run whole, however large it is; None if it can run block by block."""
    settings = request.calibration
    if not harness.pretrained:
        return "it is not that of a Hugging Face directory"
    if settings.stats is not None:
        return f"{option('stats')} holds all moments at once"
    if settings.refines:
        return f"{option('sequential')} and {option('heal')} run the whole network"
    if request.shares:
        return f"{option('share-inputs')} compares the moments of all layers"
    if request.narrows:
        return f"{option('layout')} narrow and auto look for hidden layers in the whole network"
    return None


def on_one_piece(reason: str) -> str:
    """The note on a large network that was run whole."""
    return f"the network was calibrated as a whole, in memory: {reason}"
