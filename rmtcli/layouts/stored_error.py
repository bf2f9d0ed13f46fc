"""How far a written layer is from the dense one, and whether that is the predicted distance."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from threadpoolctl import threadpool_limits

from rmtcli.checkpoint import Checkpoint
from rmtcli.checkpoint.dtypes import TYPES
from rmtcli.checkpoint.readback import differs
from rmtcli.layers import Layer
from rmtcli.layouts.base import Layout
from rmtcli.spectra import max_abs, row_blocks

#: Bytes of a layer, and of its approximation, that are in memory at a time.
_BLOCK_BYTES = 2 * 2**20


@dataclass(frozen=True, slots=True)
class ReadBack:
    """The result of reading an output back.

    Attributes:
        tensors: number of tensors, each bit-identical to what was to be written.
        errors: ‖W − Ŵ‖_F / ‖W‖_F of each pruned layer, with Ŵ as the file holds it.
    """

    tensors: int
    errors: dict[str, float]


def stored_errors(
    expected: Iterable[tuple[Layer, Layout, float]],
    written: Checkpoint,
    target: Path,
    *,
    optimal: bool,
) -> dict[str, float]:
    """Measure each pruned layer's error in a file, and compare it with the predicted one.

    No matrix of a given rank is closer than the truncation (Eckart and Young, 1936), and stored
    factors of the truncation are farther only by their rounding.

    Args:
        expected: the pruned layers, each with its layout and the relative error of its truncation.
        written: the output.
        target: its name, for the message.
        optimal: whether the factors are the truncation; calibrated ones are farther by design.

    Returns:
        The error of each layer, by name.

    Raises:
        CheckpointError: an error that rounding does not explain.
    """
    errors = {}
    for layer, layout, predicted in expected:
        with threadpool_limits(1, "blas"):  # the last digits depend on the number of threads
            error, rounding = _stored_error(layer, written, layout)
        # Resolution of the Gram matrix: p eigenvalues, each to p·eps of the largest.
        slack = min(layer.shape) ** 2 * np.finfo(np.float64).eps
        least = max(predicted - rounding, 0.0) ** 2 - slack
        most = (predicted + rounding) ** 2 + slack if optimal else math.inf
        if not least <= error**2 <= most:
            raise differs(
                target,
                f"{layer.name} is {error:.3g} of its norm away from the dense layer, "
                f"and should be {predicted:.3g}",
            )
        errors[layer.name] = error
    return errors


def _stored_error(layer: Layer, written: Checkpoint, layout: Layout) -> tuple[float, float]:
    """(error, bound of the part of it that is rounding), relative to the dense layer's norm."""
    weight = layer.load()
    unit = max_abs(weight)  # so that no square overflows or underflows
    stored = layout.reconstruct(written, layer)
    rounding = stored.rounding(*TYPES[layer.dtype].rounding, unit)
    difference, norm = 0.0, 0.0
    for rows, block in row_blocks(weight, unit, _BLOCK_BYTES):
        norm += float(np.vdot(block, block))
        block -= stored.rows(rows, unit)
        difference += float(np.vdot(block, block))
    return math.sqrt(difference / norm), rounding / math.sqrt(norm)
