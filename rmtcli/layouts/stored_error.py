"""How far a written layer is from the dense one, and whether that is what was predicted."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from threadpoolctl import threadpool_limits

from rmtcli.arrays import FloatArray
from rmtcli.checkpoint import Checkpoint
from rmtcli.checkpoint.dtypes import ROUNDING
from rmtcli.checkpoint.readback import differs
from rmtcli.layouts.edits import factor_matrices
from rmtcli.planning import LayerPlan, Layout
from rmtcli.spectra import max_abs, row_blocks, tall

#: Of a layer and of its product, so much is in memory at a time.
_BLOCK_BYTES = 2 * 2**20


@dataclass(frozen=True, slots=True)
class ReadBack:
    """What reading an output back has shown.

    Attributes:
        tensors: how many are in the file what was to be written, bit for bit.
        errors: ‖W − Ŵ‖_F / ‖W‖_F of each pruned layer, of Ŵ as the file holds it.
    """

    tensors: int
    errors: dict[str, float]


def stored_errors(
    plans: Iterable[LayerPlan], written: Checkpoint, layout: Layout, target: Path, *, optimal: bool
) -> dict[str, float]:
    """The error of each pruned layer as a file holds it, compared with the predicted one.

    No matrix of that rank is nearer than truncation is (Eckart and Young, 1936), and factors that
    are to be the truncation are farther by their rounding alone.

    Args:
        plans: the pruned layers.
        written: the output.
        layout: how it stores them.
        target: its name.
        optimal: whether they are truncated; calibrated ones lie farther, by design.

    Raises:
        CheckpointError: an error that rounding does not explain.
    """
    errors = {}
    for plan in plans:
        with threadpool_limits(1, "blas"):  # the last digits depend on the number of threads
            error, rounding = _stored_error(plan, written, layout)
        # What the Gram matrix resolves: p eigenvalues, each to p·eps of the largest.
        slack = min(plan.layer.shape) ** 2 * np.finfo(np.float64).eps
        least = max(plan.relative_error - rounding, 0.0) ** 2 - slack
        most = (plan.relative_error + rounding) ** 2 + slack if optimal else math.inf
        if not least <= error**2 <= most:
            raise differs(
                target,
                f"{plan.layer.name} is {error:.3g} of its norm away from the dense layer, "
                f"and should be {plan.relative_error:.3g}",
            )
        errors[plan.layer.name] = error
    return errors


def _stored_error(plan: LayerPlan, written: Checkpoint, layout: Layout) -> tuple[float, float]:
    """(error, the most that rounding can add to it), both relative to the dense layer's norm."""
    layer = plan.layer
    weight = layer.load()
    unit = max_abs(weight)  # so that no square over- or underflows
    half, least = ROUNDING[layer.dtype]
    if layout is Layout.DENSE:
        stored = tall(layer.view.load(written, layer.tensor)).astype(np.float64)
        rounding = math.hypot(half, least / unit) * math.sqrt(stored.size)
    else:
        left, right = factor_matrices(written, layer.module)
        rounding = _rounding(left, right, half, least) / unit
        long, short = (left, right) if weight.shape[0] >= weight.shape[1] else (right.T, left.T)
    difference, norm = 0.0, 0.0
    for rows, block in row_blocks(weight, unit, _BLOCK_BYTES):
        norm += float(np.vdot(block, block))
        block -= stored[rows] / unit if layout is Layout.DENSE else (long[rows] / unit) @ short
        difference += float(np.vdot(block, block))
    return math.sqrt(difference / norm), rounding / math.sqrt(norm)


def _rounding(left: FloatArray, right: FloatArray, half: float, least: float) -> float:
    """The largest change of the product, in the Frobenius norm, when both factors are rounded.

    Σ over the ranks of the norms of a column times those of a row, one of them or both changed.
    """
    a, b = np.linalg.norm(left, axis=0), np.linalg.norm(right, axis=1)
    da = half * a + least * math.sqrt(len(left))
    db = half * b + least * math.sqrt(right.shape[1])
    return float(np.sum(da * b + a * db + da * db))
