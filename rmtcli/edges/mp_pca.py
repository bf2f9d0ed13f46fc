"""MP-PCA: the widest bulk that the law allows (Veraart, Novikov et al., NeuroImage 2016)."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from rmtcli.edges.base import EDGES, EdgeFit, Noise, Weight
from rmtcli.edges.judge import judge
from rmtcli.edges.options import MAX_DISTANCE, LawOptions
from rmtcli.spectra import Spectrum


@EDGES.register("mp-pca")
@dataclass(frozen=True, slots=True)
class MpPca:
    """Take the most eigenvalues whose spread is no wider than their mean allows.

    For the smallest c eigenvalues, the law requires λ_c − λ₁ ≤ 4 √(c/n) σ² with σ² their mean.
    The method lets no one set the chance of a false spike, and has no p-values.

    Attributes:
        max_distance: Kolmogorov–Smirnov distance up to which a fit counts as near where pure
            noise would fit better; taken over the middle 60 % of the eigenvalues.
    """

    max_distance: float = MAX_DISTANCE
    reference: ClassVar[str] = "Veraart, Novikov et al. (2016), NeuroImage, equations 11 and 12"

    def __post_init__(self) -> None:
        self._options()

    def fit(self, spectrum: Spectrum, weight: Weight) -> EdgeFit:
        """Find the largest c that passes (equations 11 and 12 of the paper)."""
        n, p, values = spectrum.n, spectrum.p, spectrum.eigenvalues
        count = np.arange(1, p + 1)
        variance = np.cumsum(values) / count
        widest = values[0] + 4 * np.sqrt(count / n) * variance
        c = int(np.flatnonzero(values <= widest)[-1])
        sigma = math.sqrt(float(variance[c]))
        return judge(
            spectrum,
            weight,
            sigma,
            self._options(),
            sigma_error=sigma / math.sqrt(2 * n * (c + 1)),
            removed=min(p - c - 1, p // 2),
            noise=Noise(max(float(widest[c]), float(values[c])), None),
        )

    def _options(self) -> LawOptions:
        """Return the options of the comparison with the law; beta has no effect on the edge."""
        return LawOptions(max_distance=self.max_distance)
