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
from rmtcli.law.roots import bracketed


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
        g, root = self.gamma, math.sqrt(self.gamma)
        a, b = (1 - root) ** 2, (1 + root) ** 2
        y = np.clip(x / self.mean, a, b)
        # The pole term has the factor 1 − gamma; its argument is 0/0 only at gamma = 1 and y = 0.
        safe = np.where(y > 0, y, 1.0)
        pole = np.arcsin(np.clip(((1 + g) * y - (1 - g) ** 2) / (2 * root * safe), -1, 1))
        bulk = np.arcsin(np.clip((y - 1 - g) / (2 * root), -1, 1))
        total = np.sqrt(np.maximum((b - y) * (y - a), 0)) + (1 + g) * bulk - (1 - g) * pole
        value = np.clip(0.5 + total / (2 * np.pi * g), 0, 1)
        return np.where(y <= a, 0.0, np.where(y >= b, 1.0, value))

    def ppf(self, u: ArrayLike) -> FloatArray:
        """Return the quantiles for u in [0, 1]: the inverse of :meth:`cdf`, by bracketing roots.

        Raises:
            ValueError: a probability outside [0, 1].
        """
        u = np.asarray(u, dtype=np.float64)
        if u.size and not (np.min(u) >= 0 and np.max(u) <= 1):
            raise ValueError("probabilities must lie in [0, 1]")
        unit = MarchenkoPastur(self.gamma)
        a, b = unit.lambda_minus, unit.lambda_plus
        roots = bracketed(lambda x: unit.cdf(x) - u, np.full(u.shape, a), b)
        quantiles = np.where(u <= 0, a, np.where(u >= 1, b, roots))
        return np.asarray(self.mean * quantiles, dtype=np.float64)
