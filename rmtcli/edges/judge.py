"""From an estimate of sigma to a fit with its verdict: what all estimators share."""

from __future__ import annotations

import numpy as np

from rmtcli.edges.base import MIN_EIGENVALUES, EdgeFit, Noise, Verdict, Weight, central_window
from rmtcli.edges.variances import UNEQUAL, dyson_variances, heavy_tailed
from rmtcli.law.fluctuations import fit_p_value
from rmtcli.law.marchenko_pastur import MarchenkoPastur
from rmtcli.spectra import Spectrum

#: Share of the eigenvalues left out at each end when an estimator has no window of its own.
WINDOW = 0.2
#: A fit is poor only where pure noise would be as far from its law with less than this chance.
SIGNIFICANT = 0.01
#: Eigenvalues that differ by less are equal: those of an orthogonal matrix in bfloat16 do by half
#: as much.
EQUAL = 0.02
#: Largest Kolmogorov–Smirnov distance of a fit that holds (Shmalo et al., 2023).
MAX_DISTANCE = 0.1


def judge(
    spectrum: Spectrum,
    weight: Weight,
    sigma: float,
    *,
    beta: float,
    sigma_error: float | None,
    alpha: float = WINDOW,
    max_distance: float = MAX_DISTANCE,
    removed: int = 0,
    noise: Noise | None = None,
    compared: Spectrum | None = None,
) -> EdgeFit:
    """The fit that follows from an estimate of sigma, by the Marchenko–Pastur law.

    Args:
        spectrum: the layer's spectrum.
        weight: the layer's weight.
        sigma: estimated deviation of one noise entry.
        beta: chance that pure noise exceeds the edge.
        sigma_error: standard error of sigma.
        alpha: share of the eigenvalues left out at each end of the window.
        max_distance: largest Kolmogorov–Smirnov distance of a fit that holds.
        removed: spikes that sigma was estimated without; the bulk is compared without them.
        noise: where the largest noise eigenvalue lies; by default that of the law.
        compared: what is compared with the law of sigma 1 in place of the spectrum, where an
            estimator allows for unequal variances.
    """
    law = MarchenkoPastur(spectrum.gamma, sigma)
    noise = noise or Noise.of(law, spectrum.p)
    bulk = without(compared or spectrum, removed)
    level = sigma if compared is None else 1.0
    distance = ks_distance(bulk, MarchenkoPastur(bulk.gamma, level), alpha)
    edge = noise.edge(beta)
    spikes = spectrum.count_above(edge)
    p_value = fit_p_value(distance, bulk.p)
    poor = p_value < SIGNIFICANT
    widest = 0.5 if removed else alpha

    def verdict() -> Verdict:
        """The first thing that speaks against the fit; the dear checks come last."""
        if sigma == 0:
            return Verdict.LOW_RANK
        if spectrum.p < MIN_EIGENVALUES:
            return Verdict.TOO_SMALL
        if all_equal(spectrum):
            return Verdict.ALL_EQUAL
        if heavy_tailed(weight, spectrum, spikes):
            return Verdict.HEAVY_TAILED
        if poor and compared is None and dyson_variances(weight, spectrum).spread > UNEQUAL:
            return Verdict.HETEROSCEDASTIC
        if spikes > widest * spectrum.p:
            return Verdict.WIDE_SIGNAL
        return Verdict.POOR_FIT if poor and distance > max_distance else Verdict.FITS

    one = compared is None
    return EdgeFit(law, edge, distance, verdict(), noise, sigma_error, p_value, one)


def low_rank(spectrum: Spectrum) -> EdgeFit | None:
    """The fit of a matrix that holds no noise: half its eigenvalues are 0; else None."""
    if float(np.median(spectrum.eigenvalues)) > 0:
        return None
    law = MarchenkoPastur(spectrum.gamma, 0.0)
    distance = ks_distance(spectrum, law, WINDOW)
    return EdgeFit(law, 0.0, distance, Verdict.LOW_RANK, Noise.of(law, spectrum.p))


def unjudged(spectrum: Spectrum, weight: Weight, sigma: float, edge: float) -> EdgeFit:
    """The fit of an estimator that supposes no law: only the entries and the size are judged."""
    law = MarchenkoPastur(spectrum.gamma, sigma)
    if spectrum.p < MIN_EIGENVALUES:
        verdict = Verdict.TOO_SMALL
    elif all_equal(spectrum):
        verdict = Verdict.ALL_EQUAL
    elif heavy_tailed(weight, spectrum, spectrum.count_above(edge)):
        verdict = Verdict.HEAVY_TAILED
    else:
        verdict = Verdict.NO_LAW
    distance = ks_distance(spectrum, law, WINDOW)
    return EdgeFit(law, edge, distance, verdict, Noise(edge, None), one_variance=False)


def all_equal(spectrum: Spectrum) -> bool:
    """Whether the eigenvalues hardly differ, and those of noise of this shape would."""
    law = MarchenkoPastur(spectrum.gamma)
    if law.lambda_plus < (1 + 2 * EQUAL) * law.lambda_minus:
        return False
    return bool(spectrum.eigenvalues[-1] < (1 + EQUAL) * spectrum.eigenvalues[0])


def without(spectrum: Spectrum, spikes: int) -> Spectrum:
    """The bulk alone, as the spectrum of noise with ``spikes`` fewer rows and columns.

    Noise that a rank-k signal is added to has, to first order, the other p − k eigenvalues of an
    (n − k) × (p − k) noise matrix.
    """
    n, p = spectrum.n - spikes, spectrum.p - spikes
    return Spectrum(spectrum.eigenvalues[:p] * (spectrum.n / n), n, p)


def ks_distance(spectrum: Spectrum, law: MarchenkoPastur, alpha: float) -> float:
    """Sup |F_law − F_empirical| over the central window, both sides of each step."""
    window = central_window(spectrum.p, alpha)
    index = np.arange(spectrum.p)[window]
    fitted = law.cdf(spectrum.eigenvalues[window])
    if law.sigma == 0:  # one step at 0, where the window's empirical function has its own
        return float(np.max(1 - fitted))
    above, below = (index + 1) / spectrum.p - fitted, fitted - index / spectrum.p
    return float(np.max(np.maximum(above, below)))
