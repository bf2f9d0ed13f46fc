"""The edge of a change: of the difference between a weight after training and before."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from rmtcli.arrays import FloatArray
from rmtcli.edges.base import EDGES, EdgeFit, Noise, Verdict, Weight
from rmtcli.edges.judge import ks_distance
from rmtcli.edges.options import WINDOW
from rmtcli.edges.select import Select
from rmtcli.edges.sign_flip import flip, under_random_signs
from rmtcli.law import tracy_widom
from rmtcli.law.marchenko_pastur import MarchenkoPastur
from rmtcli.spectra import Spectrum

#: Verdicts on a law, where random signs can do without one.
_WITHOUT_LAW = (
    Verdict.HEAVY_TAILED,
    Verdict.HETEROSCEDASTIC,
    Verdict.POOR_FIT,
    Verdict.WIDE_SIGNAL,
)


@EDGES.register("change")
@dataclass(frozen=True, slots=True)
class Change:
    """For a tuned weight minus its base: ``select`` where its law fits, else random signs.

    The noise of a change is that of the optimizer's steps and of rounding. Where weights are stored
    in 16 bits, most small steps round to nothing and the others to a step of the type, which grows
    with the weight: no law of equal variances fits. Random signs keep all of this
    (:class:`~rmtcli.edges.sign_flip.SignFlip`). Their largest eigenvalues follow a Tracy–Widom law,
    which is fitted to some trials by its mean and deviation, so that few trials tell small chances.

    Attributes:
        beta: chance that pure noise exceeds the edge. A network has many layers, and each false
            spike would be a direction of the adapter.
        trials: number of random sign matrices.
    """

    beta: float = 0.001
    trials: int = 12

    def __post_init__(self) -> None:
        Select(beta=self.beta)
        if self.trials < 2:
            raise ValueError(f"trials must be at least 2, not {self.trials}")

    def fit(self, spectrum: Spectrum, weight: Weight) -> EdgeFit:
        """Return the fit of ``select``, or that of random signs where it cannot be trusted."""
        fit = Select(beta=self.beta).fit(spectrum, weight)
        if fit.verdict not in _WITHOUT_LAW:
            return fit
        flipped = flip(spectrum, weight, self._noise, self.beta)
        law = MarchenkoPastur(spectrum.gamma, flipped.sigma)
        return EdgeFit(
            law,
            flipped.noise.edge(self.beta),
            ks_distance(spectrum, law, WINDOW),
            Verdict.NO_LAW,
            flipped.noise,
            one_variance=False,
            chosen="random signs: no law fits the noise",
        )

    def _noise(self, rest: FloatArray) -> Noise:
        """The Tracy–Widom law with the mean and deviation of some trials.

        The deviation of few trials may be far too small by chance, so that it is at least that of
        noise of one variance.
        """
        largest = under_random_signs(rest, self.trials)
        n, p = rest.shape
        law = MarchenkoPastur(p / n, math.sqrt(float(np.mean(rest**2))))
        drawn = float(largest.std(ddof=1)) / math.sqrt(tracy_widom.VARIANCE)
        scale = max(drawn, tracy_widom.scale(law, p))
        return Noise(float(largest.mean()) - tracy_widom.MEAN * scale, scale)
