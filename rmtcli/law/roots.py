"""Roots of many functions at once, each between two points where its signs differ."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import ArrayLike

from rmtcli.arrays import FloatArray

#: More steps than bisection needs for any bracket of float64 numbers.
_STEPS = 2200
#: Four times the distance between neighbouring numbers: relative, and absolute near 0.
_RELATIVE, _ABSOLUTE = 4 * np.finfo(np.float64).eps, 4 * np.finfo(np.float64).tiny


def bracketed(
    function: Callable[[FloatArray], FloatArray], low: ArrayLike, high: ArrayLike
) -> FloatArray:
    """Return the roots of ``function``, to rounding error; each entry is a problem of its own.

    Chandrupatla's method (1997): inverse quadratic interpolation where it is safe, bisection where
    it is not. Equivalent to ``scipy.optimize.elementwise.find_root(function, (low, high)).x``
    with the smallest tolerances.

    Args:
        function: maps shape (m,) to shape (m,), entry by entry.
        low: lower ends of the brackets, shape (m,) or a scalar.
        high: upper ends of the brackets, shape (m,) or a scalar.
    """
    a, b = (np.array(x, dtype=np.float64) for x in np.broadcast_arrays(low, high))
    fa, fb = function(a), function(b)
    t = np.full_like(a, 0.5)
    for _ in range(_STEPS):
        x = a + t * (b - a)
        fx = function(x)
        same = np.sign(fx) == np.sign(fa)
        c, fc = np.where(same, a, b), np.where(same, fa, fb)
        b, fb = np.where(same, b, a), np.where(same, fb, fa)
        a, fa = x, fx
        best = np.where(np.abs(fa) < np.abs(fb), a, b)
        width = np.abs(b - a)
        least = np.abs(best) * _RELATIVE + _ABSOLUTE
        if np.all((2 * least >= width) | (fa == 0) | (fb == 0)):
            break
        with np.errstate(divide="ignore", invalid="ignore", over="ignore", under="ignore"):
            xi, phi = (a - b) / (c - b), (fa - fb) / (fc - fb)
            inner = (1 - np.sqrt(1 - xi) < phi) & (phi < np.sqrt(xi))
            slope = (c - a) / (b - a)
            t = fa / (fa - fb) * fc / (fc - fb) - slope * fa / (fc - fa) * fb / (fb - fc)
            end = np.minimum(least / width, 0.5)
            t = np.clip(np.where(inner & np.isfinite(t), t, 0.5), end, 1 - end)
        t = np.where(width > 0, t, 0.5)
    return np.where(fa == 0, a, np.where(fb == 0, b, best))
