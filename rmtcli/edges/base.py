"""What an edge estimator gives, and the registry of all of them."""

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

#: Fewer eigenvalues than this hold no bulk whose shape could be judged.
MIN_EIGENVALUES = 20

#: Below it, the Tracy–Widom law is known to fewer digits than the margin would need.
SMALLEST_BETA = 1e-10

#: Standard errors to each side that hold 95 % of a normal law.
_NORMAL_95 = 1.96


class Verdict(Enum):
    """Whether the fitted law can be relied on; the value is the sentence a user reads."""

    FITS = "the bulk follows the Marchenko–Pastur law"
    NO_LAW = "this estimator supposes no law that the bulk could be compared with"
    LOW_RANK = "the matrix is exactly low-rank: there is no noise to fit"
    ALL_EQUAL = "all singular values are equal: no noise shows, and all of it may be signal"
    HEAVY_TAILED = "the weights are heavy-tailed: single large ones make spikes of their own"
    HETEROSCEDASTIC = "rows or columns differ in noise, which this estimator takes for signal"
    POOR_FIT = "the bulk does not follow the Marchenko–Pastur law"
    WIDE_SIGNAL = "the signal reaches into the window that the noise is fitted on"
    TOO_SMALL = f"fewer than {MIN_EIGENVALUES} singular values are too few to fit a law"

    @property
    def trusted(self) -> bool:
        """Whether a rule may act on the edge."""
        return self in (Verdict.FITS, Verdict.NO_LAW, Verdict.LOW_RANK)


@dataclass(frozen=True, slots=True)
class Noise:
    """Where the largest eigenvalue of the noise lies.

    Attributes:
        top: upper end of its bulk, in eigenvalue units.
        scale: unit of the Tracy–Widom fluctuation around it, in eigenvalue units; None where the
            estimator supposes no law.
    """

    top: float
    scale: float | None

    @classmethod
    def of(cls, law: MarchenkoPastur, p: int, kurtosis: float = 0.0) -> Noise:
        """That of p eigenvalues under the Marchenko–Pastur law.

        Entries with excess kurtosis κ move the edge by κ/√(np) of itself, which at these sizes is
        part of the Tracy–Widom scale: each entry counts as its own variance in the quartic terms
        of the moments. docs/theory.md derives it and compares with simulation.
        """
        n = p / law.gamma
        top = law.lambda_plus * (1 + kurtosis / math.sqrt(n * p))
        return cls(top, tracy_widom.scale(law, p))

    def edge(self, beta: float) -> float:
        """The threshold T₊ that noise exceeds with chance ``beta``."""
        if self.scale is None:
            return self.top
        return self.top + tracy_widom.quantile(1 - beta) * self.scale


@dataclass(frozen=True, slots=True)
class EdgeFit:
    """A fitted noise law and the threshold above it.

    Attributes:
        law: the Marchenko–Pastur law of the noise; ``law.sigma`` is its estimated deviation.
        edge: threshold in eigenvalue units: the noise's upper edge plus a Tracy–Widom margin.
        ks_distance: largest distance between fitted and empirical distribution function on the
            central window, in [0, 1].
        verdict: whether the fit can be relied on.
        noise: where the largest eigenvalue of the noise lies.
        sigma_error: standard error of sigma, or None where it is not known.
        p_value: chance that pure noise of this size fits no better; None without a law.
        one_variance: whether all entries are supposed to hold the same noise.
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
        """95 % interval of the edge from the standard error of sigma: edges go with sigma²."""
        if self.sigma_error is None or not self.law.sigma:
            return None
        share = 2 * _NORMAL_95 * self.sigma_error / self.law.sigma
        return self.edge * max(0.0, 1 - share), self.edge * (1 + share)

    def signal(self, n: int, eigenvalues: FloatArray) -> Signal | None:
        """The signal under each spike; None where its theory, of one variance, does not apply."""
        return signal(self.law, n, eigenvalues) if self.one_variance else None

    def p_values(self, eigenvalues: FloatArray) -> FloatArray | None:
        """For each, the chance that the largest of pure noise is as large; None without a law.

        Below about 1e-14 it is rounding, and comes as 0.
        """
        if self.noise.scale is None:
            return None
        if self.noise.scale == 0:
            return np.zeros_like(eigenvalues)
        places = (eigenvalues - self.noise.top) / self.noise.scale
        return np.array([max(0.0, 1 - tracy_widom.cdf(float(x))) for x in places])


class EdgeEstimator(Protocol):
    """Weight and spectrum in, fit out. Implementations are frozen dataclasses in ``EDGES``."""

    def fit(self, spectrum: Spectrum, weight: Weight) -> EdgeFit:
        """Fit the noise of one layer. Never raises on a valid layer: the verdict says.

        Args:
            spectrum: the spectrum of ``weight``.
            weight: shape (out, in).
        """
        ...


EDGES: Registry[EdgeEstimator] = Registry("edge estimator", "rmtcli.edges")


def central_window(p: int, alpha: float) -> slice:
    """The indices of p ascending eigenvalues that lie from alpha p to (1 − alpha) p."""
    first = min(math.floor(alpha * p), (p - 1) // 2)
    return slice(first, p - first)


def check_shares(alpha: float, beta: float, max_distance: float) -> None:
    """Reject options that no fit can use.

    Raises:
        ValueError: with a message that names the option.
    """
    if not 0 <= alpha < 0.5:
        raise ValueError(f"alpha must be in [0, 0.5), not {alpha}")
    if not SMALLEST_BETA <= beta <= 1 - SMALLEST_BETA:
        raise ValueError(
            f"beta must be from {SMALLEST_BETA:g} to 1 - {SMALLEST_BETA:g}, not {beta}"
        )
    if not 0 < max_distance <= 1:
        raise ValueError(f"max_distance must be in (0, 1], not {max_distance}")
