"""Moments of look-up tables, whose inputs are one-hot, and of output heads that are tied to them.

A table E, one row per token, is the layer W = Eᵀ with one-hot inputs, whose second moment is the
diagonal of the tokens' frequencies p. Like a convolution, it is calibrated by its outputs: the best
maps of W need no more than W diag(p) Wᵀ, and all rows of the table are mapped alike.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from rmtcli.arrays import FloatArray
from rmtcli.calibration.moments import Moments

#: Bytes of a table that are in memory as float64 at a time.
_BLOCK_BYTES = 32 * 2**20


def with_heads(table: Moments, heads: Sequence[Moments], scale: float) -> Moments:
    """The moments of a table with those of the heads that multiply by the same weight.

    An error D of W changes the loss by E(gᵀDx)² through the table, and by E(hᵀDs)² through a head
    that reads h, where s are the gradients of its scores. With independent factors, the latter is
    tr(Dᵀ E[hhᵀ] D E[ssᵀ]). The scores' Fisher matrix is about diagonal, with the probabilities of
    the tokens, whose mean is p in a network that predicts tokens: E[ssᵀ] ≈ E‖s‖² diag(p). So both
    terms have the same inputs, and the head adds E‖s‖² E[hhᵀ] to E[ggᵀ] for each of its inputs.

    Args:
        table: moments of the table.
        heads: moments of the heads, whose ``gradient`` is E‖s‖², of shape (1, 1).
        scale: the number by which the network multiplies the rows that it looks up.
    """
    gradient = table.gradient
    for head in heads:
        if gradient is not None and head.gradient is not None:
            worth = head.rows / table.rows * float(head.gradient[0, 0]) / scale**2
            gradient = gradient + worth * head.second
    return replace(table, gradient=gradient)


def smoothed(moments: Moments, weight: NDArray[np.floating]) -> Moments:
    """The moments of a table if the calibration text had a few more tokens, drawn from all alike.

    Tokens that the text lacks then count too. The second moment W diag(p) Wᵀ becomes
    (1 − ε) W diag(p) Wᵀ + ε s² W Wᵀ, where s² gives both terms one trace. With as many more tokens
    as the table has columns, ε is small where there is much text; docs/architecture.md compares.

    Args:
        moments: moments of the table's outputs.
        weight: shape (out, tokens).
    """
    out, tokens = weight.shape
    flat: FloatArray = np.zeros((out, out))
    mean: FloatArray = np.zeros(out)
    step = max(1, _BLOCK_BYTES // (8 * out))
    for start in range(0, tokens, step):
        rows = weight[:, start : start + step].astype(np.float64)
        flat, mean = flat + rows @ rows.T, mean + rows.sum(1) / tokens
    trace, share = float(np.trace(flat)), out / (out + moments.rows)
    scale = float(np.trace(moments.second)) / trace if trace else 0.0
    second = (1 - share) * moments.second + share * scale * flat
    mean = (1 - share) * moments.mean + share * (scale * tokens) ** 0.5 * mean
    return replace(moments, second=second, mean=mean)
