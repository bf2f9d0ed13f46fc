"""The Marchenko–Pastur law of the eigenvalues of WᵀW/n for a noise matrix W (1967).

W has n rows and p ≤ n columns of independent entries with mean 0 and standard deviation sigma;
gamma = p/n.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike

from rmtcli.arrays import FloatArray


@dataclass(frozen=True, slots=True)
class MarchenkoPastur:
    """The Marchenko–Pastur law for one aspect ratio and one noise level.

    SciPy has no such law; the methods are those of a ``scipy.stats`` distribution: ``pdf``,
    ``cdf``, ``ppf``.

    Args:
        gamma: aspect ratio p/n, in (0, 1].
        sigma: standard deviation of one noise entry, in units of the weights. With 0 there is no
            noise and all mass is at 0.

    Raises:
        ValueError: gamma or sigma out of range.
    """

    gamma: float
    sigma: float = 1.0

    def __post_init__(self) -> None:
        if not 0 < self.gamma <= 1:
            raise ValueError(f"gamma must be in (0, 1], not {self.gamma}")
        if not (self.sigma >= 0 and math.isfinite(self.sigma)):
            raise ValueError(f"sigma must be finite and at least 0, not {self.sigma}")

    @property
    def lambda_minus(self) -> float:
        """Lower edge of the bulk, sigma² (1 − √gamma)², in eigenvalue units."""
        return self.sigma**2 * (1 - math.sqrt(self.gamma)) ** 2

    @property
    def lambda_plus(self) -> float:
        """Upper edge of the bulk, sigma² (1 + √gamma)², in eigenvalue units."""
        return self.sigma**2 * (1 + math.sqrt(self.gamma)) ** 2

    @property
    def mean(self) -> float:
        """Mean of the law, sigma²."""
        return self.sigma**2

    @property
    def variance(self) -> float:
        """Variance of the law, gamma sigma⁴."""
        return self.gamma * self.sigma**4

    def pdf(self, x: ArrayLike) -> FloatArray:
        """Return the density √((b−x)(x−a)) / (2π gamma sigma² x) between the edges a and b, else 0.

        With gamma = 1 it has an integrable pole at 0, where infinity is returned.

        Raises:
            ValueError: sigma is 0, so that there is no density.
        """
        if self.sigma == 0:
            raise ValueError("the law without noise has no density")
        x = np.asarray(x, dtype=np.float64)
        inside = np.maximum((self.lambda_plus - x) * (x - self.lambda_minus), 0)
        scale = 2 * np.pi * self.gamma * self.mean
        with np.errstate(divide="ignore", invalid="ignore"):
            density = np.sqrt(inside) / (scale * x)
        if self.gamma == 1:
            density = np.where(x == 0, np.inf, density)
        return np.where((x < self.lambda_minus) | (x > self.lambda_plus), 0.0, density)

    def cdf(self, x: ArrayLike) -> FloatArray:
        """Return the distribution function, the integral of :meth:`pdf`, in closed form."""
        x = np.asarray(x, dtype=np.float64)
        if self.sigma == 0:
            return np.where(x >= 0, 1.0, 0.0)
        unit = MarchenkoPastur(self.gamma)
        a, b = unit.lambda_minus, unit.lambda_plus
        y = np.clip(x / self.mean, a, b)
        value = 1 - _above(self.gamma, np.arctan2(np.sqrt(b - y), np.sqrt(y - a)))
        return np.where(y <= a, 0.0, np.where(y >= b, 1.0, np.clip(value, 0, 1)))

    def ppf(self, u: ArrayLike) -> FloatArray:
        """Return the quantiles for u in [0, 1]: the inverse of :meth:`cdf`, by Newton's steps.

        Raises:
            ValueError: a probability outside [0, 1].
        """
        u = np.asarray(u, dtype=np.float64)
        if u.size and not (np.min(u) >= 0 and np.max(u) <= 1):
            raise ValueError("probabilities must lie in [0, 1]")
        unit = MarchenkoPastur(self.gamma)
        a, b = unit.lambda_minus, unit.lambda_plus
        half = _half_angles(self.gamma, (1 - u).reshape(-1)).reshape(u.shape)
        inner = a + 4 * math.sqrt(self.gamma) * np.cos(half) ** 2
        quantiles = np.where(u <= 0, a, np.where(u >= 1, b, inner))
        return np.asarray(self.mean * quantiles, dtype=np.float64)


#: Number of half-angles between which a quantile is interpolated before Newton's steps.
_GRID = 257
#: Newton's steps end when they are this small relative to the distance from the edges; the error is
#: then of the order of their square.
_LAST_STEP = 1e-8
#: More steps than bisection would need.
_STEPS = 100


def _above(gamma: float, half: FloatArray) -> FloatArray:
    """Return the mass of the law above x = 1 + γ + 2√γ cos θ, for half-angles θ/2 in [0, π/2].

    The density in θ is 2 sin²θ/(π x), which is smooth up to both edges, and even at the pole of
    γ = 1. Its integral is elementary, and keeps more digits than one in x.
    """
    root = math.sqrt(gamma)
    sine, cosine = np.sin(half), np.cos(half)
    other = np.arctan2((1 - root) * sine, (1 + root) * cosine)
    total = (1 + gamma) * half - 2 * root * sine * cosine - (1 - gamma) * other
    return np.asarray(total / (np.pi * gamma))


def _half_angles(gamma: float, masses: FloatArray) -> FloatArray:
    """Return the half-angles above which the law has the given masses, shape (m,).

    Newton's steps begin at a linear interpolation. One that leaves the interval in which the root
    is known to be is replaced by bisection.
    """
    grid = np.linspace(0, np.pi / 2, _GRID)
    table = _above(gamma, grid)
    after = np.clip(np.searchsorted(table, masses), 1, _GRID - 1)
    low, high = grid[after - 1], grid[after]
    half = np.clip(np.interp(masses, table, grid), low, high)
    least = (1 - math.sqrt(gamma)) ** 2
    for _ in range(_STEPS):
        excess = _above(gamma, half) - masses
        low, high = np.where(excess < 0, half, low), np.where(excess > 0, half, high)
        square = np.cos(half) ** 2
        with np.errstate(divide="ignore", invalid="ignore"):
            x = least + 4 * math.sqrt(gamma) * square
            following = half - excess * x * np.pi / (16 * np.sin(half) ** 2 * square)
        inside = (following >= low) & (following <= high)
        following = np.where(inside, following, (low + high) / 2)
        following = np.where(excess == 0, half, following)
        margin = _LAST_STEP * np.minimum(following, np.pi / 2 - following)
        half, last = following, half
        if np.all(np.abs(half - last) <= margin):
            break
    return half
