"""What decomposes layers: the processor, an accelerator, or a folder of earlier results."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from rmtcli.computing import Cache
from rmtcli.errors import UsageError
from rmtcli.options import option
from rmtcli.planning import Decomposer
from rmtcli.spectra import spectrum

if TYPE_CHECKING:
    from rmtcli.calibration import Eigh
    from rmtcli.computing.device import OnDevice


def decomposer_for(device: str, cache: str | Path | None) -> Decomposer:
    """What computes spectra: the processor, an accelerator, or a folder of earlier results.

    Raises:
        UsageError: the cache's folder cannot be created or written to, or the device cannot be
            used.
    """
    accelerator = _solver_of(device)
    if accelerator is None:
        return spectrum if cache is None else Cache.at(cache).spectrum
    if cache is not None:
        raise UsageError(
            f"{option('cache')} keeps what the processor computes: leave it out, or "
            f"{option('device', device)}"
        )
    return accelerator.spectrum


def eigh_on(device: str) -> Eigh:
    """What computes eigenvectors of moments: the processor, or an accelerator.

    Raises:
        UsageError: the device cannot be used.
    """
    accelerator = _solver_of(device)
    return np.linalg.eigh if accelerator is None else accelerator.eigh


def _solver_of(device: str) -> OnDevice | None:
    """The solver of an accelerator; None where layers are decomposed on the processor."""
    if device == "cpu":
        return None
    from rmtcli.computing.device import OnDevice, has_solver  # needs torch

    return OnDevice(device) if has_solver(device) else None
