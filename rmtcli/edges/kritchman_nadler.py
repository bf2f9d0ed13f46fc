"""Sequential tests with a noise level freed of the signal (Kritchman and Nadler, 2008, 2009)."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from rmtcli.arrays import FloatArray
from rmtcli.edges.base import EDGES, EdgeFit, Noise, Weight, check_shares
from rmtcli.edges.judge import MAX_DISTANCE, WINDOW, judge
from rmtcli.law.marchenko_pastur import MarchenkoPastur
from rmtcli.spectra import Spectrum


@EDGES.register("kritchman-nadler")
@dataclass(frozen=True, slots=True)
class KritchmanNadler:
    """Test one eigenvalue after the other against the noise that the rest holds.

    Uses every eigenvalue, so that it needs fewer of them than BEMA: the one for small matrices.
    Rows or columns that differ in noise mislead it as they do BEMA.

    Attributes:
        beta: chance that pure noise exceeds the edge.
        max_distance: largest Kolmogorov–Smirnov distance of a fit that holds, taken over the
            middle 60 % of the eigenvalues.
    """

    beta: float = 0.1
    max_distance: float = MAX_DISTANCE
    reference: ClassVar[str] = "Kritchman and Nadler (2008, equations 12 and 13; 2009)"

    def __post_init__(self) -> None:
        check_shares(WINDOW, self.beta, self.max_distance)

    def fit(self, spectrum: Spectrum, weight: Weight) -> EdgeFit:
        """The first k at which eigenvalue k + 1 is within the noise of the last p − k."""
        n, p = spectrum.n, spectrum.p
        descending = spectrum.eigenvalues[::-1]
        for k in range(p):
            sigma = math.sqrt(noise_variance(descending, n, k))
            noise = _noise(n, p - k, sigma)
            if descending[k] <= noise.edge(self.beta):
                break
        return judge(
            spectrum,
            weight,
            sigma,
            beta=self.beta,
            sigma_error=sigma / math.sqrt(2 * n * (p - k)),
            max_distance=self.max_distance,
            removed=min(k, p // 2),
            noise=noise,
        )


def noise_variance(descending: FloatArray, n: int, k: int) -> float:
    """The noise variance behind k spikes (Kritchman and Nadler, 2008, equations 12 and 13).

    A spike's eigenvalue λ holds noise as well as its own ρ:
    ρ² − ρ (λ + σ² − σ² (p − k)/n) + λσ² = 0, and σ² = (Σ noise λ + Σ spikes (λ − ρ))/(p − k).
    """
    p = len(descending)
    spikes, rest = descending[:k], float(descending[k:].sum())
    start = rest / (p - k)
    variance = start
    for _ in range(_ROUNDS):
        b = spikes + variance * (1 - (p - k) / n)
        own = (b + np.sqrt(np.maximum(b * b - 4 * spikes * variance, 0))) / 2
        before, variance = variance, (rest + float((spikes - own).sum())) / (p - k)
        if abs(variance - before) <= _EXACT * start:
            break
    return variance


def _noise(n: int, p: int, sigma: float) -> Noise:
    """That of p noise eigenvalues among n rows; the law is the same with the sides exchanged."""
    long, short = max(n, p), min(n, p)
    return Noise.of(MarchenkoPastur(short / long, sigma), short)


#: Iterations for the noise variance, and the change that ends them.
_ROUNDS, _EXACT = 100, 1e-13
