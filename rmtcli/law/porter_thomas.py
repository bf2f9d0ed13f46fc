"""Whether singular vectors look like those of noise (Porter and Thomas, 1956).

A singular vector u of Gaussian noise points in any direction alike. The intensities m uᵢ² of its m
entries then follow the Porter–Thomas law, χ² with one degree of freedom, which is to say that the
√m uᵢ are normal. Vectors of other noise come to the same as m grows.
"""

from __future__ import annotations

import math

import numpy as np
from scipy.special import ndtr, poch

from rmtcli.arrays import FloatArray

#: With fewer entries, the moments say too little about the tails of the statistic.
FEWEST = 8
_LEAST = 1e-12


def p_values(vectors: FloatArray) -> FloatArray:
    """The chance that vectors of noise are as far from the Porter–Thomas law, on either side.

    The statistic is the participation Σ uᵢ⁴ of a unit vector: 3/(m + 2) for noise, more where few
    entries stand out, less where all are of one size. On trained layers it finds more than a
    Kolmogorov–Smirnov test (docs/theory.md). Its null is the uniform law on the sphere, where the
    squares uᵢ² are Dirichlet(½, …, ½) and the first three moments are exact. The cube root that
    makes it normal is that of Anscombe and Glynn (1983) for the kurtosis of a sample.

    Args:
        vectors: shape (m, k), a vector a column, of any length but 0.

    Returns:
        Shape (k,), in [0, 1]; 1 where there are fewer than ``FEWEST`` entries.
    """
    m, count = vectors.shape
    if m < FEWEST:
        return np.ones(count)
    squares = (vectors / np.abs(vectors).max(axis=0)) ** 2
    participation = np.sum(squares**2, axis=0) / np.sum(squares, axis=0) ** 2
    mean, deviation, skewness = moments(m)
    x = (participation - mean) / deviation
    degrees = 6 + 8 / skewness * (2 / skewness + math.sqrt(1 + 4 / skewness**2))
    # The statistic of equal entries can lie where the fitted null has no values at all.
    inverse = (1 - 2 / degrees) / np.maximum(1 + x * math.sqrt(2 / (degrees - 4)), _LEAST)
    z = (1 - 2 / (9 * degrees) - np.cbrt(inverse)) / math.sqrt(2 / (9 * degrees))
    return np.asarray(2 * ndtr(-np.abs(z)))


def moments(m: int) -> tuple[float, float, float]:
    """Mean, standard deviation and skewness of Σ uᵢ⁴ for a uniform unit vector of m entries.

    With dᵢ = uᵢ², E Π dᵢ^kᵢ = Π (½)_kᵢ / (m/2)_Σkᵢ, rising factorials; the moments of Σ dᵢ²
    are sums of such terms over which indices agree.
    """

    def term(*powers: int) -> float:
        above = math.prod(float(poch(0.5, k)) for k in powers)
        return above / float(poch(m / 2, sum(powers)))

    mean = m * term(2)
    square = m * term(4) + m * (m - 1) * term(2, 2)
    cube = m * term(6) + 3 * m * (m - 1) * term(4, 2) + m * (m - 1) * (m - 2) * term(2, 2, 2)
    variance = square - mean**2
    return mean, math.sqrt(variance), (cube - 3 * mean * variance - mean**3) / variance**1.5
