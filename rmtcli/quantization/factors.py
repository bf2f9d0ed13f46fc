"""Rounding two factors of a weight, one after the other."""

from __future__ import annotations

import numpy as np
import scipy

from rmtcli.arrays import FloatArray
from rmtcli.quantization.feedback import RIDGE, with_feedback
from rmtcli.quantization.grid import Grid, Rounded, nearest


def round_weight(
    weight: FloatArray, second: FloatArray | None, grid: Grid, outputs: FloatArray | None = None
) -> Rounded:
    """Round a weight: with error feedback where the second moment of its inputs is known.

    Args:
        weight: shape (out, in).
        second: shape (in, in), or None.
        grid: the grid.
        outputs: shape (out, out), the second moment of the gradients of the outputs, or None.
    """
    return nearest(weight, grid) if second is None else with_feedback(weight, second, grid, outputs)


def round_left(
    left: FloatArray,
    right: FloatArray,
    rounded: FloatArray,
    second: FloatArray | None,
    grid: Grid,
    outputs: FloatArray | None = None,
) -> Rounded:
    """Round the left factor after the right one.

    Before, it is fitted again to the product, for the inputs that the rounded right factor R̂ gives
    it: L + L (R − R̂) C R̂ᵀ (R̂ C R̂ᵀ)⁻¹, by least squares. Inputs whose moment C is not known are
    taken to be uncorrelated and alike.

    Args:
        left: shape (out, r).
        right: shape (r, in), the right factor before it was rounded.
        rounded: shape (r, in), the rounded right factor.
        second: shape (in, in), the second moment of the inputs, or None.
        grid: the grid.
        outputs: shape (out, out), the second moment of the gradients of the outputs, or None.
    """
    inputs = rounded.T if second is None else second @ rounded.T
    own = rounded @ inputs
    ridge = RIDGE**2 * float(np.trace(own)) / len(own) + np.finfo(np.float64).tiny
    change = left @ ((right - rounded) @ inputs)
    solved = scipy.linalg.solve(own + ridge * np.eye(len(own)), change.T, assume_a="pos")
    return with_feedback(left + solved.T, own, grid, outputs)
