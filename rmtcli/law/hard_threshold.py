"""The optimal hard threshold for singular values (Gavish and Donoho, 2014)."""

from __future__ import annotations

import math


def optimal_threshold(gamma: float) -> float:
    """Return the eigenvalue, in units of sigma², above which a direction is worth keeping.

    It is λ*² of Gavish and Donoho (2014), equation 11,
    λ* = √(2(γ+1) + 8γ / ((γ+1) + √(γ²+14γ+1))),
    which minimises the squared error of the matrix for any low-rank signal in white noise. A square
    matrix has λ* = 4/√3.

    Args:
        gamma: aspect ratio p/n, in (0, 1].

    Raises:
        ValueError: gamma outside (0, 1].
    """
    if not 0 < gamma <= 1:
        raise ValueError(f"gamma must be in (0, 1], not {gamma}")
    return 2 * (gamma + 1) + 8 * gamma / ((gamma + 1) + math.sqrt(gamma**2 + 14 * gamma + 1))
