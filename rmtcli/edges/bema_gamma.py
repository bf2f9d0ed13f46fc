"""BEMA for unequal variances: the Gamma law of Ke, Ma and Lin (JASA 2023, algorithm 2)."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from operator import attrgetter
from typing import ClassVar, NamedTuple

import numpy as np
from scipy.special import gammaincinv

from rmtcli.arrays import FloatArray
from rmtcli.edges.base import EDGES, EdgeFit, Noise, Weight, central_window, check_shares
from rmtcli.edges.judge import MAX_DISTANCE, WINDOW, judge, low_rank
from rmtcli.law import tracy_widom
from rmtcli.law.fluctuations import window_error
from rmtcli.law.marchenko_pastur import MarchenkoPastur
from rmtcli.law.separable import one_sided_edge
from rmtcli.spectra import Spectrum, spectrum

#: Shapes of the Gamma law that are tried; at the largest, variances differ by 3 %.
_SHAPES = (0.3, 1000.0)
#: Its quantiles are simulated with at most this many eigenvalues, and interpolated.
_SIMULATED = 400
#: How often the variances are drawn anew for the edge.
_DRAWS = 100
#: Part of sigma's error that comes from the variances drawn, over that of their plain mean; 1.15
#: to 1.30 by simulation, for shapes from 1 to 10.
_DRAWING = 1.2
#: Random numbers are the same for every layer, so that a fit is a function of the weight.
_SEED = 2023


@EDGES.register("bema-gamma")
@dataclass(frozen=True, slots=True)
class BemaGamma:
    """Match the middle eigenvalues to those of noise whose variances follow a Gamma law.

    The paper's variables, each with its own variance, are here the short or the long side of the
    weight, whichever matches better: a spectrum does not tell which row has which variance, only
    how they spread. As in the paper, the law's quantiles come from simulation and the edge from
    drawing the variances anew; the largest eigenvalue of each draw is not simulated again but that
    of theory (Couillet and Hachem, 2014, and Tracy–Widom).

    Attributes:
        alpha: share of the eigenvalues left out at each end.
        beta: chance that pure noise exceeds the edge.
        max_distance: largest Kolmogorov–Smirnov distance of a fit that holds, where it is larger
            than pure noise would have it.
    """

    alpha: float = WINDOW
    beta: float = 0.1
    max_distance: float = MAX_DISTANCE
    reference: ClassVar[str] = "Ke, Ma and Lin (2023), JASA, algorithm 2"

    def __post_init__(self) -> None:
        check_shares(self.alpha, self.beta, self.max_distance)

    def fit(self, spectrum: Spectrum, weight: Weight) -> EdgeFit:
        """The Gamma law of least squared distance to the middle eigenvalues, and its edge."""
        if (fit := low_rank(spectrum)) is not None:
            return fit
        window = central_window(spectrum.p, self.alpha)
        sides = (_Side(spectrum.n, spectrum.p, is_long) for is_long in (False, True))
        match = min(
            (_matched(side, spectrum, window) for side in sides), key=attrgetter("distance")
        )
        law = match.side.quantiles(match.shape)
        # Each eigenvalue moves to where the Marchenko–Pastur law has its level.
        moved = np.interp(spectrum.eigenvalues / match.variance, law, match.side.equal)
        sigma = math.sqrt(match.variance)
        matching = window_error(spectrum.gamma, spectrum.p, self.alpha)
        drawing = _DRAWING / math.sqrt(4 * match.side.size * match.shape)
        fit = judge(
            spectrum,
            weight,
            sigma,
            beta=self.beta,
            sigma_error=sigma * math.hypot(matching, drawing),
            alpha=self.alpha,
            max_distance=self.max_distance,
            noise=match.side.noise(match.shape, match.variance),
            compared=Spectrum(moved, spectrum.n, spectrum.p),
        )
        # The table of p-values holds for given variances, not for ones that are drawn.
        return replace(fit, p_value=None)


class _Side:
    """Noise of variance 1 on average, which differs along one side of an n × p matrix."""

    def __init__(self, n: int, p: int, is_long: bool) -> None:
        self.n, self.p, self.is_long = n, p, is_long
        self.size = n if is_long else p
        self.levels = (np.arange(p) + 0.5) / p
        #: Quantiles of the law with equal variances, shape (p,).
        self.equal = MarchenkoPastur(p / n).ppf(self.levels)
        small = min(p, _SIMULATED)
        self._normal = np.random.default_rng(_SEED).standard_normal((round(small * n / p), small))
        self._unscaled = spectrum(self._normal).eigenvalues

    def quantiles(self, shape: float) -> FloatArray:
        """Shape (p,): by how much unequal variances stretch one matrix, times ``equal``.

        The variances stand at the Gamma law's own quantiles.
        """
        rows, columns = self._normal.shape
        size = rows if self.is_long else columns
        levels = (np.arange(size) + 0.5) / size
        deviations = np.sqrt(gammaincinv(shape, levels) / shape)
        scaled = self._normal * (deviations[:, None] if self.is_long else deviations)
        stretch = spectrum(scaled).eigenvalues / self._unscaled
        places = (np.arange(columns) + 0.5) / columns
        return np.asarray(self.equal * np.interp(self.levels, places, stretch))

    def noise(self, shape: float, variance: float) -> Noise:
        """Where the largest eigenvalue lies, over draws of the variances.

        A mixture of Tracy–Widom laws, given as the one with the same mean and variance.
        """
        random = np.random.default_rng(_SEED)
        others = self.n + self.p - self.size
        draws = random.gamma(shape, 1 / shape, (_DRAWS, self.size))
        tops, scales = np.array([one_sided_edge(drawn, others, self.n) for drawn in draws]).T
        means = tops + tracy_widom.MEAN * scales
        scale = math.sqrt(np.mean(scales**2) + np.var(means) / tracy_widom.VARIANCE)
        top = float(means.mean()) - tracy_widom.MEAN * scale
        return Noise(variance * top, variance * scale)


class _Match(NamedTuple):
    distance: float
    shape: float
    variance: float
    side: _Side


def _matched(side: _Side, spectrum: Spectrum, window: slice) -> _Match:
    from scipy.optimize import minimize_scalar  # takes 0.2 s, and few layers need it

    middle = spectrum.eigenvalues[window]
    unit = float(middle[-1])  # so that no square over- or underflows
    middle = middle / unit

    def variance(law: FloatArray) -> float:
        return float(law @ middle / (law @ law))

    def distance(log_shape: float) -> float:
        law = side.quantiles(math.exp(log_shape))[window]
        return float(np.sum((middle - variance(law) * law) ** 2))

    bounds = math.log(_SHAPES[0]), math.log(_SHAPES[1])
    found = minimize_scalar(distance, bounds=bounds, options={"xatol": 0.02})
    shape = math.exp(float(found.x))
    return _Match(float(found.fun), shape, unit * variance(side.quantiles(shape)[window]), side)
