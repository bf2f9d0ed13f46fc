"""MP-PCA: the widest bulk that the law allows (Veraart, Novikov et al., NeuroImage 2016)."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from rmtcli.edges.base import EDGES, EdgeFit, Noise, Weight, check_shares
from rmtcli.edges.judge import MAX_DISTANCE, WINDOW, judge
from rmtcli.spectra import Spectrum


@EDGES.register("mp-pca")
@dataclass(frozen=True, slots=True)
class MpPca:
    """Take the most eigenvalues whose spread is no wider than their mean allows.

    Of the smallest c eigenvalues, the law wants λ_c − λ₁ ≤ 4 √(c/n) σ² with σ² their mean. The
    method has no chance of a false spike to set, and no p-values.

    Attributes:
        max_distance: largest Kolmogorov–Smirnov distance of a fit that holds, taken over the
            middle 60 % of the eigenvalues.
    """

    max_distance: float = MAX_DISTANCE
    reference: ClassVar[str] = "Veraart, Novikov et al. (2016), NeuroImage, equations 11 and 12"

    def __post_init__(self) -> None:
        check_shares(WINDOW, 0.1, self.max_distance)

    def fit(self, spectrum: Spectrum, weight: Weight) -> EdgeFit:
        """The largest c that passes, as equations 11 and 12 of the paper have it."""
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
            beta=0.5,
            sigma_error=sigma / math.sqrt(2 * n * (c + 1)),
            max_distance=self.max_distance,
            removed=min(p - c - 1, p // 2),
            noise=Noise(max(float(widest[c]), float(values[c])), None),
        )
