"""Random matrices of known truth: noise of many kinds, and planted directions."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Protocol

import numpy as np

from rmtcli.arrays import FloatArray
from rmtcli.registry import Registry


class Noise(Protocol):
    """A kind of noise with mean 0 and mean variance 1: a frozen dataclass in ``NOISES``."""

    def draw(self, rng: np.random.Generator, shape: tuple[int, int]) -> FloatArray:
        """Draw a matrix of this shape, (out, in)."""
        ...


NOISES: Registry[Noise] = Registry("noise", "rmtcli.noise")


@NOISES.register("gaussian")
@dataclass(frozen=True, slots=True)
class Gaussian:
    """Independent normal entries, as every edge estimator assumes."""

    def draw(self, rng: np.random.Generator, shape: tuple[int, int]) -> FloatArray:
        """Draw standard normal entries."""
        return rng.standard_normal(shape)


@NOISES.register("uniform")
@dataclass(frozen=True, slots=True)
class Uniform:
    """Independent uniform entries, as PyTorch initialises linear layers."""

    def draw(self, rng: np.random.Generator, shape: tuple[int, int]) -> FloatArray:
        """Draw uniform entries between −√3 and √3."""
        return rng.uniform(-math.sqrt(3), math.sqrt(3), shape)


@NOISES.register("student")
@dataclass(frozen=True, slots=True)
class Student:
    """Independent Student t entries, which have heavy tails.

    Attributes:
        df: degrees of freedom, above 2; up to 4, single entries create spikes of their own.
    """

    df: float = 3.0

    def __post_init__(self) -> None:
        if not self.df > 2:
            raise ValueError(f"df must be above 2, where the variance is finite, not {self.df}")

    def draw(self, rng: np.random.Generator, shape: tuple[int, int]) -> FloatArray:
        """Draw Student t entries, divided by their standard deviation √(df/(df − 2))."""
        return rng.standard_t(self.df, shape) / math.sqrt(self.df / (self.df - 2))


@NOISES.register("sparse")
@dataclass(frozen=True, slots=True)
class Sparse:
    """Independent normal entries, most of them replaced by zero.

    Attributes:
        density: share of the entries that are not zero.
    """

    density: float = 0.1

    def __post_init__(self) -> None:
        if not 0 < self.density <= 1:
            raise ValueError(f"density must be in (0, 1], not {self.density}")

    def draw(self, rng: np.random.Generator, shape: tuple[int, int]) -> FloatArray:
        """Draw standard normal entries, apply a random mask, and divide by √density."""
        values = rng.standard_normal(shape) * (rng.random(shape) < self.density)
        return np.asarray(values / math.sqrt(self.density))


@dataclass(frozen=True, slots=True)
class _Scaled:
    """Normal entries with log-normal scales of mean square 1 along one side.

    Attributes:
        spread: standard deviation of the logarithm of the scales.
    """

    spread: float = 0.25

    def __post_init__(self) -> None:
        if not 0 <= self.spread <= 5:
            raise ValueError(f"spread must be from 0 to 5, not {self.spread}")

    def _scales(self, rng: np.random.Generator, count: int) -> FloatArray:
        """Draw scales exp(spread · normal) and divide them by their root mean square."""
        scales = np.exp(self.spread * rng.standard_normal(count))
        return np.asarray(scales / np.sqrt(np.mean(scales**2)))


@NOISES.register("row-scaled")
@dataclass(frozen=True, slots=True)
class RowScaled(_Scaled):
    """Normal entries, each row multiplied by a log-normal scale of its own."""

    def draw(self, rng: np.random.Generator, shape: tuple[int, int]) -> FloatArray:
        """Draw one scale per row, then the entries."""
        return self._scales(rng, shape[0])[:, None] * rng.standard_normal(shape)


@NOISES.register("column-scaled")
@dataclass(frozen=True, slots=True)
class ColumnScaled(_Scaled):
    """Normal entries, each column multiplied by a log-normal scale of its own."""

    def draw(self, rng: np.random.Generator, shape: tuple[int, int]) -> FloatArray:
        """Draw the entries, then one scale per column."""
        return rng.standard_normal(shape) * self._scales(rng, shape[1])


@NOISES.register("correlated")
@dataclass(frozen=True, slots=True)
class Correlated:
    """Normal entries whose neighbours in a row are correlated (first-order autoregression).

    Attributes:
        rho: correlation of neighbouring entries, in (−1, 1).
    """

    rho: float = 0.5

    def __post_init__(self) -> None:
        if not -1 < self.rho < 1:
            raise ValueError(f"rho must be in (-1, 1), not {self.rho}")

    def draw(self, rng: np.random.Generator, shape: tuple[int, int]) -> FloatArray:
        """Draw each entry as rho times the one before it plus √(1 − rho²) times a normal value."""
        values = rng.standard_normal(shape)
        fresh = math.sqrt(1 - self.rho**2)
        for j in range(1, shape[1]):
            values[:, j] = self.rho * values[:, j - 1] + fresh * values[:, j]
        return values


def planted(
    rng: np.random.Generator,
    shape: tuple[int, int],
    noise: Noise,
    *,
    sigma: float = 1.0,
    rank: int = 0,
    times: float = 2.0,
) -> FloatArray:
    """Draw noise plus ``rank`` random orthogonal directions of equal strength.

    The strength is ``times`` the detection limit sigma (n p)^¼ of Benaych-Georges and Nadakuditi
    (2012), which holds for noise of one variance.

    Args:
        rng: source of random numbers.
        shape: (out, in).
        noise: kind of noise.
        sigma: standard deviation of the noise (root mean square).
        rank: number of directions, at most the length of the short side.
        times: strength of a direction, in multiples of the detection limit.
    """
    weight = sigma * noise.draw(rng, shape)
    if rank:
        left = np.linalg.qr(rng.standard_normal((shape[0], rank)))[0]
        right = np.linalg.qr(rng.standard_normal((shape[1], rank)))[0]
        weight += times * sigma * (shape[0] * shape[1]) ** 0.25 * left @ right.T
    return weight
