"""Sequential tests with an unbiased noise level (Kritchman and Nadler, 2008, 2009)."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from rmtcli.arrays import FloatArray
from rmtcli.edges.base import EDGES, EdgeFit, Noise, Weight
from rmtcli.edges.judge import judge
from rmtcli.edges.options import LawOptions
from rmtcli.law.marchenko_pastur import MarchenkoPastur
from rmtcli.spectra import Spectrum


@EDGES.register("kritchman-nadler")
@dataclass(frozen=True, slots=True)
class KritchmanNadler(LawOptions):
    """Test one eigenvalue after the other against the noise in the remaining ones.

    It uses every eigenvalue and so needs fewer of them than BEMA, which makes it the estimator for
    small matrices. Rows or columns that differ in noise mislead it as they mislead BEMA.
    """

    reference: ClassVar[str] = "Kritchman and Nadler (2008, equations 12 and 13; 2009)"

    def fit(self, spectrum: Spectrum, weight: Weight) -> EdgeFit:
        """Find the first k for which eigenvalue k + 1 is within the noise of the last p − k."""
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
            self,
            sigma_error=sigma / math.sqrt(2 * n * (p - k)),
            removed=min(k, p // 2),
            noise=noise,
        )


def noise_variance(descending: FloatArray, n: int, k: int) -> float:
    """Return the noise variance behind k spikes (Kritchman and Nadler, 2008, equations 12, 13).

    The eigenvalue λ of a spike is its own ρ and noise:
    ρ² − ρ (λ + σ² − σ² (p − k)/n) + λσ² = 0, and σ² = (Σ noise λ + Σ spikes (λ − ρ))/(p − k).

    Args:
        descending: shape (p,), the eigenvalues, largest first.
        n: long side of the weight.
        k: number of spikes, below p.
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
    """Return the distribution of the largest of p noise eigenvalues; n may be less than p."""
    long, short = max(n, p), min(n, p)
    return Noise.of(MarchenkoPastur(short / long, sigma), short)


#: Iterations for the noise variance, and the change that ends them.
_ROUNDS, _EXACT = 100, 1e-13
