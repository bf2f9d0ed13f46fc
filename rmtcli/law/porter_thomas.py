"""A test of whether singular vectors look like those of noise (Porter and Thomas, 1956).

A singular vector u of Gaussian noise is uniform on the sphere. The intensities m uᵢ² of its m
entries then follow the Porter–Thomas law, χ² with one degree of freedom; in other words, the √m uᵢ
are normal. Vectors of other noise approach this law as m grows.
"""

from __future__ import annotations

import math

import numpy as np

from rmtcli.arrays import FloatArray

#: With fewer entries, the moments say too little about the tails of the statistic.
FEWEST = 8
#: Smallest value whose inverse is taken.
_LEAST = 1e-12


def p_values(vectors: FloatArray) -> FloatArray:
    """Return two-sided p-values of vectors under the Porter–Thomas law.

    The statistic is the inverse participation ratio Σ uᵢ⁴ of a unit vector. Its mean is 3/(m + 2)
    for noise; it is larger where few entries stand out, and smaller where all have one size. On
    trained layers it detects more than a Kolmogorov–Smirnov test (docs/theory.md). Under the null
    hypothesis, the uniform law on the sphere, the squares uᵢ² are Dirichlet(½, …, ½), and the first
    three moments are exact. The transformation by a cube root that makes the statistic normal is
    that of Anscombe and Glynn (1983) for the kurtosis of a sample.

    Args:
        vectors: shape (m, k), one vector per column, of any length but 0.

    Returns:
        Shape (k,), in [0, 1]; all 1 where vectors have fewer than ``FEWEST`` entries.
    """
    m, count = vectors.shape
    if m < FEWEST:
        return np.ones(count)
    squares = (vectors / np.abs(vectors).max(axis=0)) ** 2
    participation = np.sum(squares**2, axis=0) / np.sum(squares, axis=0) ** 2
    mean, deviation, skewness = moments(m)
    x = (participation - mean) / deviation
    degrees = 6 + 8 / skewness * (2 / skewness + math.sqrt(1 + 4 / skewness**2))
    # The statistic of equal entries can be outside the support of the fitted null distribution.
    inverse = (1 - 2 / degrees) / np.maximum(1 + x * math.sqrt(2 / (degrees - 4)), _LEAST)
    z = (1 - 2 / (9 * degrees) - np.cbrt(inverse)) / math.sqrt(2 / (9 * degrees))
    return np.array([math.erfc(abs(x) / math.sqrt(2)) for x in z.tolist()])


def moments(m: int) -> tuple[float, float, float]:
    """Return mean, standard deviation and skewness of Σ uᵢ⁴ for a uniform unit vector.

    With dᵢ = uᵢ² and rising factorials (x)_k, E Π dᵢ^kᵢ = Π (½)_kᵢ / (m/2)_Σkᵢ. The moments of
    Σ dᵢ² are sums of such terms, one for each pattern of equal indices.

    Args:
        m: number of entries of the vector.
    """

    def term(*powers: int) -> float:
        """Return E Π dᵢ^kᵢ for different indices i with these powers kᵢ."""
        above = math.prod(_rising(0.5, k) for k in powers)
        return above / _rising(m / 2, sum(powers))

    mean = m * term(2)
    square = m * term(4) + m * (m - 1) * term(2, 2)
    cube = m * term(6) + 3 * m * (m - 1) * term(4, 2) + m * (m - 1) * (m - 2) * term(2, 2, 2)
    variance = square - mean**2
    return mean, math.sqrt(variance), (cube - 3 * mean * variance - mean**3) / variance**1.5


def _rising(x: float, count: int) -> float:
    """Return the rising factorial x (x + 1) … (x + count − 1)."""
    return math.prod(x + i for i in range(count))
