"""The interface of edge estimators, the fit that they return, and their registry."""

from __future__ import annotations

import math
from dataclasses import dataclass
from enum import Enum
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from rmtcli.arrays import FloatArray
from rmtcli.law import tracy_widom
from rmtcli.law.marchenko_pastur import MarchenkoPastur
from rmtcli.law.spiked import Signal, signal
from rmtcli.registry import Registry
from rmtcli.spectra import Spectrum

Weight = NDArray[np.floating]

#: With fewer eigenvalues, the bulk has no shape that could be judged.
MIN_EIGENVALUES = 20

#: Standard errors to each side that hold 95 % of a normal law.
_NORMAL_95 = 1.96


class Verdict(Enum):
    """Whether the fitted law can be trusted; the value is the sentence that a user reads."""

    FITS = "the bulk follows the Marchenko–Pastur law"
    NEAR = "the bulk is near the Marchenko–Pastur law, but pure noise would be nearer"
    NO_LAW = "this estimator assumes no law, so there is nothing to compare the bulk with"
    LOW_RANK = "the matrix is exactly low-rank: there is no noise to fit"
    ALL_EQUAL = "all singular values are equal: none looks like noise, and all may be signal"
    HEAVY_TAILED = "the weights are heavy-tailed: single large entries create spikes of their own"
    HETEROSCEDASTIC = "rows or columns differ in noise, which this estimator mistakes for signal"
    POOR_FIT = "the bulk does not follow the Marchenko–Pastur law"
    WIDE_SIGNAL = "the signal reaches into the eigenvalues that the noise is fitted to"
    TOO_SMALL = f"fewer than {MIN_EIGENVALUES} singular values are too few to fit a law"

    @property
    def trusted(self) -> bool:
        """Whether a keep rule may act on the edge."""
        return self in (Verdict.FITS, Verdict.NEAR, Verdict.NO_LAW, Verdict.LOW_RANK)


@dataclass(frozen=True, slots=True)
class Noise:
    """Distribution of the largest eigenvalue of the noise: top + scale · Tracy–Widom.

    Attributes:
        top: upper edge of the noise's bulk, in eigenvalue units.
        scale: unit of the Tracy–Widom fluctuation around it, in eigenvalue units; None where the
            estimator assumes no law.
    """

    top: float
    scale: float | None

    @classmethod
    def of(cls, law: MarchenkoPastur, p: int, kurtosis: float = 0.0) -> Noise:
        """Return the distribution for p eigenvalues under the Marchenko–Pastur law.

        Entries with excess kurtosis κ move the edge by the share κ/√(np), which at these sizes is
        a part of the Tracy–Widom scale: in the quartic terms of the moments, each entry counts as
        a variance of its own. docs/theory.md derives it and compares it with simulation.
        """
        n = p / law.gamma
        top = law.lambda_plus * (1 + kurtosis / math.sqrt(n * p))
        return cls(top, tracy_widom.scale(law, p))

    def edge(self, beta: float) -> float:
        """Return the threshold T₊ that the noise exceeds with chance ``beta``."""
        if self.scale is None:
            return self.top
        return self.top + tracy_widom.quantile(1 - beta) * self.scale


@dataclass(frozen=True, slots=True)
class EdgeFit:
    """A fitted noise law and the threshold above it.

    Attributes:
        law: the Marchenko–Pastur law of the noise; ``law.sigma`` is the estimated standard
            deviation of one entry.
        edge: threshold in eigenvalue units: the noise's upper edge plus a Tracy–Widom margin.
        ks_distance: largest distance between the fitted and the empirical distribution function
            on the central window, in [0, 1].
        verdict: whether the fit can be trusted.
        noise: distribution of the largest eigenvalue of the noise.
        sigma_error: standard error of sigma, or None where it is not known.
        p_value: chance that pure noise of this size fits no better; None without a law.
        one_variance: whether all entries are assumed to have the same noise variance.
        chosen: which estimator was selected and why; empty where the user named it.
    """

    law: MarchenkoPastur
    edge: float
    ks_distance: float
    verdict: Verdict
    noise: Noise
    sigma_error: float | None = None
    p_value: float | None = None
    one_variance: bool = True
    chosen: str = ""

    @property
    def edge_interval(self) -> tuple[float, float] | None:
        """95 % confidence interval of the edge, which is proportional to sigma²."""
        if self.sigma_error is None or not self.law.sigma:
            return None
        share = 2 * _NORMAL_95 * self.sigma_error / self.law.sigma
        return self.edge * max(0.0, 1 - share), self.edge * (1 + share)

    def signal(self, n: int, eigenvalues: FloatArray) -> Signal | None:
        """Return the signal under each spike; None where the noise has more than one variance."""
        return signal(self.law, n, eigenvalues) if self.one_variance else None

    def p_values(self, eigenvalues: FloatArray) -> FloatArray | None:
        """Return, for each value, the chance that pure noise has one as large.

        Chances below about 1e-14 are lost in rounding and returned as 0.

        Args:
            eigenvalues: shape (k,), in eigenvalue units.

        Returns:
            Shape (k,), in [0, 1]; None where the estimator assumes no law.
        """
        if self.noise.scale is None:
            return None
        if self.noise.scale == 0:
            return np.zeros_like(eigenvalues)
        centred = (eigenvalues - self.noise.top) / self.noise.scale
        return tracy_widom.survival(centred)


class EdgeEstimator(Protocol):
    """An estimator of the edge: a frozen dataclass, registered in ``EDGES``.

    One that comes from a publication cites it in a class variable ``reference``.
    """

    def fit(self, spectrum: Spectrum, weight: Weight) -> EdgeFit:
        """Fit the noise of one layer.

        A valid layer never raises: the verdict says what is wrong with the fit.

        Args:
            spectrum: the spectrum of ``weight``.
            weight: shape (out, in).
        """
        ...


EDGES: Registry[EdgeEstimator] = Registry(
    "edge estimator",
    "rmtcli.edges",
    built_in=(
        "bema",
        "bema-gamma",
        "change",
        "dyson",
        "kritchman-nadler",
        "median",
        "mp-pca",
        "screenot",
        "select",
        "sign-flip",
    ),
)


def central_window(p: int, alpha: float) -> slice:
    """Return the indices from alpha p to (1 − alpha) p, of p ascending eigenvalues."""
    first = min(math.floor(alpha * p), (p - 1) // 2)
    return slice(first, p - first)
