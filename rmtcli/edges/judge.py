"""From an estimate of sigma to a fit with its verdict: the part that estimators share."""

from __future__ import annotations

import numpy as np

from rmtcli.edges.base import MIN_EIGENVALUES, EdgeFit, Noise, Verdict, Weight, central_window
from rmtcli.edges.options import WINDOW, LawOptions, WindowOptions
from rmtcli.edges.variances import UNEQUAL, dyson_variances, heavy_tailed
from rmtcli.law.fluctuations import fit_p_value
from rmtcli.law.marchenko_pastur import MarchenkoPastur
from rmtcli.spectra import Spectrum

#: A fit is poor only where pure noise is as far from its law with less than this chance.
SIGNIFICANT = 0.01
#: No distance above the next constant makes up for a smaller chance.
IMPROBABLE = 1e-6
#: A fit this close is good whatever the p-value, which at any given distance falls with the size:
#: so small a share of the eigenvalues is out of its place. Noise of a few hundred is as far.
NEGLIGIBLE = 0.005
#: Eigenvalues that differ by less, relative to the smallest, count as equal. Those of an orthogonal
#: matrix in bfloat16 differ by half as much.
EQUAL = 0.02


def judge(
    spectrum: Spectrum,
    weight: Weight,
    sigma: float,
    options: LawOptions | WindowOptions,
    *,
    sigma_error: float | None,
    removed: int = 0,
    noise: Noise | None = None,
    compared: Spectrum | None = None,
) -> EdgeFit:
    """Return the fit that follows from an estimate of sigma, by the Marchenko–Pastur law.

    Args:
        spectrum: the layer's spectrum.
        weight: the layer's weight, shape (out, in).
        sigma: estimated standard deviation of one noise entry.
        options: window, chance of a false spike, largest distance of a good fit, and whether the
            law's p-values hold for the estimator; if not, none is reported, and none makes a fit
            merely near.
        sigma_error: standard error of sigma, or None where it is not known.
        removed: number of spikes that were removed before sigma was estimated; the bulk is
            compared with the law without them.
        noise: distribution of the largest noise eigenvalue; by default the law's.
        compared: spectrum to compare with the law of sigma 1 in place of ``spectrum``, from an
            estimator that allows for unequal variances.
    """
    law = MarchenkoPastur(spectrum.gamma, sigma)
    noise = noise or Noise.of(law, spectrum.p)
    bulk = without(compared or spectrum, removed)
    level = sigma if compared is None else 1.0
    distance = ks_distance(bulk, MarchenkoPastur(bulk.gamma, level), options.alpha)
    edge = noise.edge(options.beta)
    spikes = spectrum.count_above(edge)
    p_value = fit_p_value(distance, bulk.p)
    poor = p_value < SIGNIFICANT
    widest = 0.5 if removed else options.alpha

    def verdict() -> Verdict:
        """The first reason to distrust the fit; expensive checks come last."""
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
        if poor and distance > options.max_distance:
            return Verdict.POOR_FIT
        near = options.tested and p_value < IMPROBABLE and distance > NEGLIGIBLE
        return Verdict.NEAR if near else Verdict.FITS

    one = compared is None
    known = p_value if options.tested else None
    return EdgeFit(law, edge, distance, verdict(), noise, sigma_error, known, one)


def low_rank(spectrum: Spectrum) -> EdgeFit | None:
    """Return the fit of a matrix without noise, at least half of whose eigenvalues are 0.

    Returns:
        The fit, with sigma and edge 0; None for every other matrix.
    """
    if float(np.median(spectrum.eigenvalues)) > 0:
        return None
    law = MarchenkoPastur(spectrum.gamma, 0.0)
    distance = ks_distance(spectrum, law, WINDOW)
    return EdgeFit(law, 0.0, distance, Verdict.LOW_RANK, Noise.of(law, spectrum.p))


def unjudged(spectrum: Spectrum, weight: Weight, sigma: float, edge: float) -> EdgeFit:
    """Return the fit of an estimator that assumes no law.

    Its verdict looks only at the size, at equal singular values and at heavy tails.

    Args:
        spectrum: the layer's spectrum.
        weight: the layer's weight, shape (out, in).
        sigma: estimated standard deviation of one noise entry.
        edge: threshold in eigenvalue units.
    """
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
    """Whether the eigenvalues hardly differ although those of noise of this shape would."""
    law = MarchenkoPastur(spectrum.gamma)
    if law.lambda_plus < (1 + 2 * EQUAL) * law.lambda_minus:
        return False
    return bool(spectrum.eigenvalues[-1] < (1 + EQUAL) * spectrum.eigenvalues[0])


def without(spectrum: Spectrum, spikes: int) -> Spectrum:
    """Return the bulk alone, as the spectrum of noise with ``spikes`` fewer rows and columns.

    When a rank-k signal is added to noise, the p − k other eigenvalues are, to first order, those
    of an (n − k) × (p − k) noise matrix.
    """
    n, p = spectrum.n - spikes, spectrum.p - spikes
    return Spectrum(spectrum.eigenvalues[:p] * (spectrum.n / n), n, p)


def ks_distance(spectrum: Spectrum, law: MarchenkoPastur, alpha: float) -> float:
    """Return sup |F_law − F_empirical| over the central window, at both sides of each step.

    Args:
        spectrum: the eigenvalues to compare.
        law: the law to compare them with.
        alpha: share of the eigenvalues left out at each end.
    """
    window = central_window(spectrum.p, alpha)
    index = np.arange(spectrum.p)[window]
    fitted = law.cdf(spectrum.eigenvalues[window])
    if law.sigma == 0:  # both functions have a step at 0
        return float(np.max(1 - fitted))
    above, below = (index + 1) / spectrum.p - fitted, fitted - index / spectrum.p
    return float(np.max(np.maximum(above, below)))
