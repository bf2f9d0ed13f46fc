"""Matrices with known truth: noise of many kinds, and planted directions."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Protocol

import numpy as np

from rmtcli.arrays import FloatArray
from rmtcli.registry import Registry


class Noise(Protocol):
    """Draws noise of mean 0 and mean variance 1. Frozen dataclasses registered in ``NOISES``."""

    def draw(self, rng: np.random.Generator, shape: tuple[int, int]) -> FloatArray:
        """A matrix of this shape, (out, in)."""
        ...


NOISES: Registry[Noise] = Registry("noise", "rmtcli.noise")


@NOISES.register("gaussian")
@dataclass(frozen=True, slots=True)
class Gaussian:
    """Independent normal entries: what every edge estimator supposes."""

    def draw(self, rng: np.random.Generator, shape: tuple[int, int]) -> FloatArray:
        """Standard normal entries."""
        return rng.standard_normal(shape)


@NOISES.register("uniform")
@dataclass(frozen=True, slots=True)
class Uniform:
    """Independent uniform entries, as PyTorch initialises linear layers."""

    def draw(self, rng: np.random.Generator, shape: tuple[int, int]) -> FloatArray:
        """Uniform on ±√3."""
        return rng.uniform(-math.sqrt(3), math.sqrt(3), shape)


@NOISES.register("student")
@dataclass(frozen=True, slots=True)
class Student:
    """Independent Student t entries: heavy tails.

    Attributes:
        df: degrees of freedom, above 2; up to 4, single entries make spikes of their own.
    """

    df: float = 3.0

    def __post_init__(self) -> None:
        if not self.df > 2:
            raise ValueError(f"df must be above 2, where the variance is finite, not {self.df}")

    def draw(self, rng: np.random.Generator, shape: tuple[int, int]) -> FloatArray:
        """Student t, divided by its deviation √(df/(df − 2))."""
        return rng.standard_t(self.df, shape) / math.sqrt(self.df / (self.df - 2))


@NOISES.register("sparse")
@dataclass(frozen=True, slots=True)
class Sparse:
    """Normal entries, most of them zero.

    Attributes:
        density: share that is not zero.
    """

    density: float = 0.1

    def __post_init__(self) -> None:
        if not 0 < self.density <= 1:
            raise ValueError(f"density must be in (0, 1], not {self.density}")

    def draw(self, rng: np.random.Generator, shape: tuple[int, int]) -> FloatArray:
        """Standard normal entries through a random mask, over √density."""
        values = rng.standard_normal(shape) * (rng.random(shape) < self.density)
        return np.asarray(values / math.sqrt(self.density))


@NOISES.register("row-scaled")
@dataclass(frozen=True, slots=True)
class RowScaled:
    """Normal entries, each row times its own log-normal scale.

    Attributes:
        spread: standard deviation of the logarithm of the scales.
    """

    spread: float = 0.25

    def __post_init__(self) -> None:
        _check_spread(self.spread)

    def draw(self, rng: np.random.Generator, shape: tuple[int, int]) -> FloatArray:
        """exp(spread · normal) a row, with mean square 1."""
        return _scales(rng, shape[0], self.spread)[:, None] * rng.standard_normal(shape)


@NOISES.register("column-scaled")
@dataclass(frozen=True, slots=True)
class ColumnScaled:
    """Normal entries, each column times its own log-normal scale.

    Attributes:
        spread: standard deviation of the logarithm of the scales.
    """

    spread: float = 0.25

    def __post_init__(self) -> None:
        _check_spread(self.spread)

    def draw(self, rng: np.random.Generator, shape: tuple[int, int]) -> FloatArray:
        """exp(spread · normal) a column, with mean square 1."""
        return rng.standard_normal(shape) * _scales(rng, shape[1], self.spread)


@NOISES.register("correlated")
@dataclass(frozen=True, slots=True)
class Correlated:
    """Normal entries; neighbours in a row are correlated, with first-order autoregression.

    Attributes:
        rho: correlation of neighbours, in (−1, 1).
    """

    rho: float = 0.5

    def __post_init__(self) -> None:
        if not -1 < self.rho < 1:
            raise ValueError(f"rho must be in (-1, 1), not {self.rho}")

    def draw(self, rng: np.random.Generator, shape: tuple[int, int]) -> FloatArray:
        """Each entry is rho times the one before it plus √(1 − rho²) times a new one."""
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
    """Noise plus ``rank`` random orthogonal directions of equal strength.

    Their strength is ``times`` the detection limit sigma (n p)^¼ of Benaych-Georges and
    Nadakuditi (2012), which holds for noise of one variance.

    Args:
        rng: where randomness comes from.
        shape: (out, in).
        noise: kind of noise.
        sigma: its deviation (root mean square).
        rank: number of directions, at most the short side.
        times: strength over the detection limit.
    """
    weight = sigma * noise.draw(rng, shape)
    if rank:
        left = np.linalg.qr(rng.standard_normal((shape[0], rank)))[0]
        right = np.linalg.qr(rng.standard_normal((shape[1], rank)))[0]
        weight += times * sigma * (shape[0] * shape[1]) ** 0.25 * left @ right.T
    return weight


def _scales(rng: np.random.Generator, count: int, spread: float) -> FloatArray:
    scales = np.exp(spread * rng.standard_normal(count))
    return np.asarray(scales / np.sqrt(np.mean(scales**2)))


def _check_spread(spread: float) -> None:
    if not 0 <= spread <= 5:
        raise ValueError(f"spread must be from 0 to 5, not {spread}")
