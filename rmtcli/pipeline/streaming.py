"""Calibration block by block, of networks that take much of the memory."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

from rmtcli.calibration import Folder, data_sha256
from rmtcli.computing import memory
from rmtcli.errors import EvaluationError, UsageError
from rmtcli.evaluation import Harness
from rmtcli.layers import Layer
from rmtcli.options import option
from rmtcli.pipeline.request import Request
from rmtcli.version import __version__

#: A network runs block by block if its parameters in float32 take more than this share of the
#: machine's memory. Moments that are being added up take many times as much (docs/scale.md).
SHARE = 1 / 32
#: The same, for a network that is healed. Healing block by block is not the same as end to end,
#: which can get better, so that a network is healed end to end where that fits into memory.
HEALED = 1 / 16


def folder_for(
    harness: Harness, sha256: str, layers: Sequence[Layer], request: Request
) -> Folder | None:
    """The folder for the moments of a network that runs block by block; None to run it whole.

    Args:
        harness: the network.
        sha256: hash of its checkpoint.
        layers: the layers that are calibrated.
        request: what the run does.

    Raises:
        UsageError: a folder is named, and the network is run whole or the folder is another run's.
    """
    settings, reason = request.calibration, in_one_piece(harness, request)
    if settings.spill is None:
        if _size(harness) <= SHARE * memory():
            return None
        if reason is None:
            return Folder()
        if harness.pretrained:
            harness.note([on_one_piece(reason)])
        return None
    if reason is not None:
        raise UsageError(
            f"{option('spill')} is for a network that runs block by block, and this one runs as a "
            f"whole: {reason}"
        )
    assert settings.data is not None
    run = {
        "version": __version__,
        "checkpoint": sha256,
        "data": data_sha256(settings.data),
        "network": harness.origin,
        "device": harness.evaluation.device,
        "metric": settings.metric,
        "batch": settings.batch,
        "clean": settings.clean,
        "layers": [layer.name for layer in layers],
        "cluster": request.cluster is not None,  # its sums are made in another order
    }
    return Folder.at(Path(settings.spill), json.dumps(run))


def in_one_piece(harness: Harness, request: Request) -> str | None:
    """Why a network is run whole, however large it is; None if it can run block by block."""
    settings = request.calibration
    if not harness.pretrained:
        return "it is no Hugging Face directory"
    if settings.stats is not None:
        return f"{option('stats')} holds all moments at once"
    if settings.heals and settings.spill is None and _size(harness) <= HEALED * memory():
        return f"{option('heal')} trains the whole network, without {option('spill')}"
    if request.shares:
        return f"{option('share-inputs')} compares the moments of all layers"
    if request.cluster is not None and settings.spill is None:
        return f"{option('executor')} needs {option('spill')} to run block by block"
    if request.narrows:
        return f"{option('layout')} narrow and auto look for hidden layers in the whole network"
    return None


def _size(harness: Harness) -> int:
    """Bytes of a network's parameters in float32."""
    return 4 * harness.checkpoint.parameters


def refuse_spill(harness: Harness, reason: str) -> EvaluationError:
    """The error where a folder is named for a network that cannot run block by block."""
    return EvaluationError(
        f"{harness.checkpoint.path}: the network does not run block by block: {reason}: leave out "
        f"{option('spill')}"
    )


def on_one_piece(reason: str) -> str:
    """The note on a large network that was run whole."""
    return f"the network was calibrated as a whole, in memory: {reason}"
