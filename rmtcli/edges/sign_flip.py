"""Sign-flip parallel analysis (Hong, Sheng and Dobriban, 2020)."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from rmtcli.arrays import FloatArray
from rmtcli.edges.base import EDGES, EdgeFit, Noise, Weight
from rmtcli.edges.judge import low_rank, unjudged
from rmtcli.spectra import Spectrum, largest_eigenvalue, tall
from rmtcli.spectra import spectrum as decompose


@EDGES.register("sign-flip")
@dataclass(frozen=True, slots=True)
class SignFlip:
    """Compare with the same entries under random signs, which destroy signal but not noise.

    Noise under random signs is noise with the same variance in every entry, whatever their pattern.
    A strong signal becomes noise too and hides weaker signals. The spikes are therefore removed and
    the signs of the rest are drawn again, until no more spikes appear. Signs come from a fixed
    seed, so that a weight always has the same edge.

    Attributes:
        beta: chance that pure noise exceeds the edge.
        trials: number of random sign matrices; at least 1/beta − 1.
    """

    beta: float = 0.1
    trials: int = 20
    reference: ClassVar[str] = "Hong, Sheng and Dobriban (2020)"

    def __post_init__(self) -> None:
        if not 0 < self.beta < 1:
            raise ValueError(f"beta must be in (0, 1), not {self.beta}")
        if (self.trials + 1) * self.beta < 1:
            raise ValueError(f"trials must be at least 1/beta - 1, not {self.trials}")

    def fit(self, spectrum: Spectrum, weight: Weight) -> EdgeFit:
        """Take an order statistic of the largest eigenvalues under random signs as the edge."""
        if (fit := low_rank(spectrum)) is not None:
            return fit
        flipped = flip(spectrum, weight, self._noise, self.beta)
        return unjudged(spectrum, weight, flipped.sigma, flipped.noise.top)

    def _noise(self, rest: FloatArray) -> Noise:
        """The 1 − beta order statistic of the largest eigenvalue under random signs."""
        order = math.ceil((self.trials + 1) * (1 - self.beta) - 1e-9)
        return Noise(float(np.sort(under_random_signs(rest, self.trials))[order - 1]), None)


@dataclass(frozen=True, slots=True)
class Flipped:
    """What random signs say about the noise of a weight.

    Attributes:
        sigma: standard deviation of one noise entry.
        noise: distribution of the largest eigenvalue of the noise, in eigenvalue units.
    """

    sigma: float
    noise: Noise


def flip(
    spectrum: Spectrum, weight: Weight, noise_of: Callable[[FloatArray], Noise], beta: float
) -> Flipped:
    """Remove spikes, and draw the signs of the rest again, until no more spikes appear.

    Args:
        spectrum: the spectrum of ``weight``, of which less than half is 0.
        weight: shape (out, in).
        noise_of: the distribution of the largest noise eigenvalue, from the tall matrix without its
            spikes, whose largest entry is near 1.
        beta: chance that pure noise exceeds the edge.
    """
    w = _oriented(weight)
    size = float(np.abs(w).max())
    w /= size
    values = spectrum.eigenvalues / size**2
    known: Spectrum | None = None
    spikes, rest = 0, w
    while True:
        noise = noise_of(rest)
        above = int(np.count_nonzero(values > noise.edge(beta)))
        if above <= spikes or above > spectrum.p // 2:
            break
        spikes = above
        if known is None:  # of this side: vectors of the given spectrum may be those of the other
            known = decompose(w, vectors=True)
        rest = _without(w, known.leading(spikes))
    scale = None if noise.scale is None else noise.scale * size**2
    return Flipped(size * float(np.sqrt(np.mean(rest**2))), Noise(noise.top * size**2, scale))


def _without(w: FloatArray, right: FloatArray) -> FloatArray:
    """The noise of a matrix whose leading directions are removed, at its size before.

    Removal takes noise too, the share h of a row's variance and g of a column's, their leverages.
    Where single entries are large, these are far from equal, because directions lean towards such
    entries. Each entry is divided by √((1 − h)(1 − g)), as regression does with residuals of
    unequal variances (HC2 of MacKinnon and White, 1985).

    Args:
        w: shape (n, p).
        right: leading right singular vectors, shape (p, k).
    """
    scores = w @ right
    rest = w - scores @ right.T
    left = scores / np.linalg.norm(scores, axis=0)
    for leverages, axis in ((left, 1), (right, 0)):
        free = np.maximum(1 - np.sum(leverages**2, axis=1), _LEAST)
        rest /= np.sqrt(np.expand_dims(free, axis))
    return rest


#: Least share of a row's or column's variance that counts as noise; below it is rounding.
_LEAST = 1e-9


def under_random_signs(rest: FloatArray, trials: int) -> FloatArray:
    """The largest eigenvalues of a tall matrix under random signs, shape (trials,)."""
    rng = np.random.default_rng(0)
    signs = (rng.choice((-1.0, 1.0), rest.shape) for _ in range(trials))
    return np.array([largest_eigenvalue(rest * sign) for sign in signs])


def _oriented(weight: Weight) -> FloatArray:
    """Return the matrix with its long side first, or, if square, with the more uneven side first.

    Signs are drawn by position, so that a weight and its transpose must give the same matrix.
    """
    w = tall(weight).astype(np.float64)
    if w.shape[0] == w.shape[1]:
        squares = (w / np.abs(w).max()) ** 2
        if squares.sum(axis=1).var() < squares.sum(axis=0).var():
            return np.ascontiguousarray(w.T)
    return w
