"""What an edge estimator gives, and the checks that all estimators share."""

from __future__ import annotations

import math
from dataclasses import dataclass
from enum import Enum
from typing import Protocol

import numpy as np

from rmtcli.law import tracy_widom
from rmtcli.law.marchenko_pastur import MarchenkoPastur
from rmtcli.registry import Registry
from rmtcli.spectrum import Spectrum

#: Fewer eigenvalues than this hold no bulk whose shape could be judged.
MIN_EIGENVALUES = 20

#: Below it, the Tracy–Widom law is known to fewer digits than the margin would need.
SMALLEST_BETA = 1e-10


class Verdict(Enum):
    """Whether the fitted law can be relied on; the value is the sentence a user reads."""

    FITS = "the bulk follows the Marchenko–Pastur law"
    LOW_RANK = "the matrix is exactly low-rank: there is no noise to fit"
    POOR_FIT = "the bulk does not follow the Marchenko–Pastur law"
    WIDE_SIGNAL = "the signal reaches into the window that the noise is fitted on"
    TOO_SMALL = f"fewer than {MIN_EIGENVALUES} singular values are too few to fit a law"

    @property
    def trusted(self) -> bool:
        """Whether a rule may act on the edge."""
        return self in (Verdict.FITS, Verdict.LOW_RANK)


@dataclass(frozen=True, slots=True)
class EdgeFit:
    """A fitted noise law and the threshold above it.

    Attributes:
        law: the Marchenko–Pastur law of the noise; ``law.sigma`` is its estimated deviation.
        edge: threshold in eigenvalue units: the law's upper edge plus a Tracy–Widom margin.
        ks_distance: largest distance between fitted and empirical distribution function on the
            central window, in [0, 1].
        verdict: whether the fit can be relied on.
    """

    law: MarchenkoPastur
    edge: float
    ks_distance: float
    verdict: Verdict


class EdgeEstimator(Protocol):
    """Spectrum in, fit out. Implementations are frozen dataclasses registered in ``EDGES``."""

    def fit(self, spectrum: Spectrum) -> EdgeFit:
        """Fit the noise of one layer. Never raises on a valid spectrum: the verdict says."""
        ...


EDGES: Registry[EdgeEstimator] = Registry("edge estimator", "rmtcli.edges")


def central_window(p: int, alpha: float) -> slice:
    """The indices of p ascending eigenvalues that lie from alpha p to (1 − alpha) p."""
    first = min(math.floor(alpha * p), (p - 1) // 2)
    return slice(first, p - first)


def judge(
    spectrum: Spectrum, sigma: float, *, alpha: float, beta: float, max_distance: float
) -> EdgeFit:
    """The fit that follows from an estimate of sigma.

    Args:
        spectrum: the layer's spectrum.
        sigma: estimated deviation of one noise entry.
        alpha: share of the eigenvalues left out at each end of the window.
        beta: chance that pure noise exceeds the edge.
        max_distance: largest Kolmogorov–Smirnov distance of a fit that holds.
    """
    law = MarchenkoPastur(spectrum.gamma, sigma)
    edge = tracy_widom.edge(law, spectrum.p, beta)
    distance = ks_distance(spectrum, law, alpha)
    if sigma == 0:
        verdict = Verdict.LOW_RANK
    elif spectrum.p < MIN_EIGENVALUES:
        verdict = Verdict.TOO_SMALL
    elif spectrum.count_above(edge) > alpha * spectrum.p:
        verdict = Verdict.WIDE_SIGNAL
    elif distance > max_distance:
        verdict = Verdict.POOR_FIT
    else:
        verdict = Verdict.FITS
    return EdgeFit(law, edge, distance, verdict)


def ks_distance(spectrum: Spectrum, law: MarchenkoPastur, alpha: float) -> float:
    """Sup |F_law − F_empirical| over the central window, both sides of each step."""
    window = central_window(spectrum.p, alpha)
    index = np.arange(spectrum.p)[window]
    fitted = law.cdf(spectrum.eigenvalues[window])
    if law.sigma == 0:  # one step at 0, where the window's empirical function has its own
        return float(np.max(1 - fitted))
    above, below = (index + 1) / spectrum.p - fitted, fitted - index / spectrum.p
    return float(np.max(np.maximum(above, below)))


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
