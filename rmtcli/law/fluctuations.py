"""Fluctuations of estimates from one noise matrix around the law."""

from __future__ import annotations

import math
from functools import lru_cache

import numpy as np

from rmtcli.arrays import FloatArray
from rmtcli.law.marchenko_pastur import MarchenkoPastur

#: Number of points at which a statistic is expanded in Chebyshev polynomials.
_NODES = 2048
#: median(p D) = LEVEL + SLOPE ln p, and the standard deviation of p D, by simulation
#: (``benchmarks/null.py``).
_LEVEL, _SLOPE, _SPREAD = 0.245, 0.389, 0.31


@lru_cache(maxsize=256)
def window_error(gamma: float, p: int, alpha: float) -> float:
    """Return the relative standard error of sigma when it is matched to the middle quantiles.

    Regressing the middle eigenvalues on their quantiles gives, to first order, the sum over all
    eigenvalues of h(x) = ½ clip(x, a, b)² with the window's ends a and b. A sum of h over the
    eigenvalues of Gaussian noise has variance ½ Σ k cₖ², where h(1 + γ + 2√γ cos θ) = Σ cₖ cos kθ
    (Bai and Silverstein, 2004, theorem 1.1; Johansson, 1998). Orders above p are not resolved.

    Args:
        gamma: aspect ratio.
        p: number of eigenvalues.
        alpha: share of the eigenvalues left out at each end.
    """
    unit = MarchenkoPastur(gamma)
    low, high = unit.ppf([alpha, 1 - alpha])
    theta = (np.arange(_NODES) + 0.5) * np.pi / _NODES
    x = 1 + gamma + 2 * math.sqrt(gamma) * np.cos(theta)
    coefficients = _cosines(np.clip(x, low, high) ** 2 / 2)
    order = np.arange(min(p + 1, _NODES))
    variance = float(np.sum(order * coefficients[: len(order)] ** 2)) / 2
    levels = alpha + (1 - 2 * alpha) * (np.arange(_NODES) + 0.5) / _NODES
    weight = (1 - 2 * alpha) * float(np.mean(unit.ppf(levels) ** 2))
    return math.sqrt(variance) / (p * weight) / 2


def _cosines(values: FloatArray) -> FloatArray:
    """Return the cₖ with Σ cₖ cos kθ = values at the nodes θ, by a fast Fourier transform.

    Equivalent to ``scipy.fft.dct(values) / len(values)``; c₀ comes out twice as large, and has no
    weight in the variance.
    """
    count = len(values)
    transformed = np.fft.rfft(np.concatenate([values, values[::-1]]))[:count]
    shifted = transformed * np.exp(-0.5j * np.pi * np.arange(count) / count)
    return np.asarray(shifted.real / count)


def fit_p_value(distance: float, p: int) -> float:
    """Return the chance that p eigenvalues of pure noise are as far from their fitted law.

    The eigenvalues of noise repel each other, so that the distance D is of order (ln p)/p and not
    1/√p, and the usual Kolmogorov–Smirnov table does not apply. p D is close to log-normal. Its
    median and spread were simulated for p from 20 to 1,024 and gamma from 1/32 to 1, with the
    middle 60 % of the eigenvalues fitted and compared; they hardly depend on gamma.

    Args:
        distance: Kolmogorov–Smirnov distance D of the fit, in [0, 1].
        p: number of eigenvalues.
    """
    middle = _LEVEL + _SLOPE * math.log(max(p, 2))
    if distance <= 0:
        return 1.0
    deviations = math.log(p * distance / middle) * middle / _SPREAD
    return math.erfc(deviations / math.sqrt(2)) / 2


def quantile_error(gamma: float, p: int, level: float) -> float:
    """Return the relative standard error of sigma that is estimated from one eigenvalue.

    Eigenvalue number ``level`` · p scatters by √(ln p + c)/(π p f(q)) around the quantile q, where
    f is the density (O'Rourke, 2010, for real symmetric matrices; c = 0.7 by simulation).

    Args:
        gamma: aspect ratio.
        p: number of eigenvalues.
        level: the eigenvalue's quantile level, in (0, 1); 0.5 for the median.
    """
    unit = MarchenkoPastur(gamma)
    quantile = unit.ppf(level)
    scatter = math.sqrt(math.log(max(p, 2)) + 0.7) / (math.pi * p * float(unit.pdf(quantile)))
    return scatter / float(quantile) / 2
