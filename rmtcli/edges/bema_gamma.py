"""BEMA for unequal variances, by a Gamma law (Ke, Ma and Lin, JASA 2023, algorithm 2)."""

from __future__ import annotations

import math
from dataclasses import dataclass
from operator import attrgetter
from typing import ClassVar, NamedTuple

import numpy as np
import scipy

from rmtcli.arrays import FloatArray
from rmtcli.edges.base import EDGES, EdgeFit, Noise, Weight, central_window
from rmtcli.edges.judge import judge, low_rank
from rmtcli.edges.options import WindowOptions
from rmtcli.law import tracy_widom
from rmtcli.law.fluctuations import window_error
from rmtcli.law.marchenko_pastur import MarchenkoPastur
from rmtcli.law.separable import one_sided_edge
from rmtcli.spectra import Spectrum, spectrum

#: Range of shapes of the Gamma law; at the largest, the variances differ by 3 %.
_SHAPES = (0.3, 1000.0)
#: Quantiles are simulated with at most this many eigenvalues, and interpolated.
_SIMULATED = 400
#: Number of draws of the variances for the edge.
_DRAWS = 100
#: The part of sigma's error that comes from the drawing of the variances, divided by the error of
#: their plain mean: 1.15 to 1.30 by simulation, for shapes from 1 to 10.
_DRAWING = 1.2
#: Every layer uses the same random numbers, so that a fit depends on the weight alone.
_SEED = 2023


@EDGES.register("bema-gamma")
@dataclass(frozen=True, slots=True)
class BemaGamma(WindowOptions):
    """Match the middle eigenvalues to those of noise whose variances follow a Gamma law.

    In the paper every variable has its own variance. Here the variables are the rows or the
    columns of the weight, whichever match better: a spectrum does not tell which row has which
    variance, only how the variances spread. As in the paper, the quantiles of the law are
    simulated and the edge comes from repeated draws of the variances. The largest eigenvalue of a
    draw is not simulated but computed from theory (Couillet and Hachem, 2014, and Tracy–Widom).
    """

    reference: ClassVar[str] = "Ke, Ma and Lin (2023), JASA, algorithm 2"
    #: The table of p-values holds for given variances, not for random ones.
    tested: ClassVar[bool] = False

    def fit(self, spectrum: Spectrum, weight: Weight) -> EdgeFit:
        """Fit the Gamma law with the least squared distance to the middle eigenvalues."""
        if (fit := low_rank(spectrum)) is not None:
            return fit
        window = central_window(spectrum.p, self.alpha)
        sides = (_Side(spectrum.n, spectrum.p, is_long) for is_long in (False, True))
        match = min(
            (_matched(side, spectrum, window) for side in sides), key=attrgetter("distance")
        )
        law = match.side.quantiles(match.shape)
        # Each eigenvalue moves to the Marchenko–Pastur quantile of the same level.
        moved = np.interp(spectrum.eigenvalues / match.variance, law, match.side.equal)
        sigma = math.sqrt(match.variance)
        matching = window_error(spectrum.gamma, spectrum.p, self.alpha)
        drawing = _DRAWING / math.sqrt(4 * match.side.size * match.shape)
        return judge(
            spectrum,
            weight,
            sigma,
            self,
            sigma_error=sigma * math.hypot(matching, drawing),
            noise=match.side.noise(match.shape, match.variance),
            compared=Spectrum(moved, spectrum.n, spectrum.p),
        )


class _Side:
    """Noise of mean variance 1 whose variance differs along one side of an n × p matrix."""

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
        """Return ``equal``, stretched as unequal variances stretch one matrix; shape (p,).

        The variances are the quantiles of the Gamma law of this shape.
        """
        rows, columns = self._normal.shape
        size = rows if self.is_long else columns
        levels = (np.arange(size) + 0.5) / size
        deviations = np.sqrt(scipy.special.gammaincinv(shape, levels) / shape)
        scaled = self._normal * (deviations[:, None] if self.is_long else deviations)
        stretch = spectrum(scaled).eigenvalues / self._unscaled
        simulated = (np.arange(columns) + 0.5) / columns
        return np.asarray(self.equal * np.interp(self.levels, simulated, stretch))

    def noise(self, shape: float, variance: float) -> Noise:
        """Return the distribution of the largest eigenvalue over draws of the variances.

        It is a mixture of Tracy–Widom laws, approximated by one with the same mean and variance.
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
    """The best Gamma law for one side: its squared distance, shape and mean variance."""

    distance: float
    shape: float
    variance: float
    side: _Side


def _matched(side: _Side, spectrum: Spectrum, window: slice) -> _Match:
    """Return the Gamma law along one side that is nearest to the eigenvalues in the window."""
    from scipy.optimize import minimize_scalar  # takes 0.2 s, and few layers need it

    middle = spectrum.eigenvalues[window]
    unit = float(middle[-1])  # no square of the quotients over- or underflows
    middle = middle / unit

    def variance(law: FloatArray) -> float:
        return float(law @ middle / (law @ law))

    def distance(log_shape: float) -> float:
        law = side.quantiles(math.exp(log_shape))[window]
        return float(np.sum((middle - variance(law) * law) ** 2))

    bounds = math.log(_SHAPES[0]), math.log(_SHAPES[1])
    least = minimize_scalar(distance, bounds=bounds, options={"xatol": 0.02})
    shape = math.exp(float(least.x))
    return _Match(float(least.fun), shape, unit * variance(side.quantiles(shape)[window]), side)
