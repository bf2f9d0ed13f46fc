"""The optimal hard threshold for singular values (Gavish and Donoho, 2014)."""

from __future__ import annotations

import math


def optimal_threshold(gamma: float) -> float:
    """The eigenvalue, in units of sigma², above which a direction is worth keeping.

    Gavish and Donoho (2014), equation 11, squared: λ*² with
    λ* = √(2(γ+1) + 8γ / ((γ+1) + √(γ²+14γ+1))).
    It minimises the squared error of the matrix, for any low-rank signal in white noise.

    Raises:
        ValueError: gamma outside (0, 1].
    """
    if not 0 < gamma <= 1:
        raise ValueError(f"gamma must be in (0, 1], not {gamma}")
    return 2 * (gamma + 1) + 8 * gamma / ((gamma + 1) + math.sqrt(gamma**2 + 14 * gamma + 1))
