"""The Tracy–Widom law (real, order 1) of the largest noise eigenvalue.

Tracy and Widom (1996); Johnstone (2001) for the fluctuations at the Marchenko–Pastur edge. The
distribution function is a Fredholm determinant (Ferrari and Spohn, 2005), discretised by
Gauss–Legendre quadrature (Bornemann, 2010), which converges exponentially. SciPy has no such law;
:func:`cdf` and :func:`quantile` are equivalent to ``ptw(s, beta = 1)`` and ``qtw(u, beta = 1)`` of
the R package RMTstat.
"""

from __future__ import annotations

import math
from functools import cache, lru_cache

import numpy as np
from numpy.typing import NDArray
from scipy.special import airy

from rmtcli.law.marchenko_pastur import MarchenkoPastur
from rmtcli.law.roots import bracketed

#: The kernel is below 1e-20 beyond this point, and the law has less mass than that below -BOUND.
_BOUND = 16.0
#: Above this point, the law has less mass than float64 can distinguish from 0 beside 1.
_ONE = 13.0
#: With 24 nodes or more, the determinant is exact to rounding.
_NODES = 32
#: Mean and variance of the law (Bornemann, 2010, table 10).
MEAN, VARIANCE = -1.2065335745820, 1.6077810345810


def cdf(s: float) -> float:
    """Return the distribution function F₁(s), with an error below 1e-13.

    F₁(s) = det(1 − V) on L²(s, ∞) with V(x, y) = ½ Ai((x + y)/2) (Ferrari and Spohn, 2005,
    equation 1).
    """
    if s >= _ONE:
        return 1.0
    if s <= -_BOUND:
        return 0.0
    nodes, weights = _quadrature()
    x = s + (nodes + 1) / 2 * (_BOUND - s)
    root = np.sqrt(weights / 2 * (_BOUND - s))
    i, j = np.triu_indices(_NODES)
    kernel = np.empty((_NODES, _NODES))
    kernel[i, j] = kernel[j, i] = airy((x[i] + x[j]) / 2)[0] / 2 * root[i] * root[j]
    determinant = np.linalg.det(np.eye(_NODES) - kernel)
    return float(np.clip(determinant, 0.0, 1.0))


@lru_cache(maxsize=64)
def quantile(u: float) -> float:
    """Return the quantile of the law: the inverse of :func:`cdf`.

    A centred and scaled largest noise eigenvalue is below it with chance u.

    Raises:
        ValueError: u outside (0, 1).
    """
    if not 0 < u < 1:
        raise ValueError(f"a Tracy–Widom probability must be in (0, 1), not {u}")
    return float(bracketed(lambda s: np.array(cdf(float(s)) - u), -_BOUND, _BOUND))


@cache
def _quadrature() -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return the Gauss–Legendre nodes and weights on [−1, 1]."""
    nodes, weights = np.polynomial.legendre.leggauss(_NODES)
    return nodes, weights


def scale(law: MarchenkoPastur, p: int) -> float:
    """Return the scale of the fluctuation of the largest of p noise eigenvalues.

    It is sigma² n^(−2/3) γ^(−1/6) (1+√γ)^(4/3) in eigenvalue units (Johnstone, 2001, as written by
    Ke, Ma and Lin, 2023, algorithm 1).
    """
    n = p / law.gamma
    unit = n ** (-2 / 3) * law.gamma ** (-1 / 6) * (1 + math.sqrt(law.gamma)) ** (4 / 3)
    return float(law.mean * unit)
