"""The edge of a matrix whose smallest singular values were cut off earlier.

Such a matrix has no bulk that a law could be fitted to: most of its eigenvalues are zero. But the
upper end of the bulk may still be there, at the same ranks in the order, and it shows whether the
noise has grown or shrunk since the whole bulk was last fitted.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from rmtcli.edges.base import MIN_EIGENVALUES, EdgeFit, Noise
from rmtcli.edges.judge import without
from rmtcli.law.marchenko_pastur import MarchenkoPastur
from rmtcli.spectra import Spectrum


def follow(fit: EdgeFit, spectrum: Spectrum, rank: int, spikes: int) -> EdgeFit:
    """Carry an earlier fit over to the matrix as it is now.

    The eigenvalues that are left of the bulk keep their ranks i in it. They are matched to the
    law's quantiles of these ranks, as BEMA matches the middle ones (Ke, Ma and Lin, 2023):
    sigma² = Σ qᵢ λᵢ / Σ qᵢ², where both sums leave out the eigenvalues that were cut off. The edge
    is proportional to sigma². The eigenvalues above it are then counted again and the match is
    repeated.

    Args:
        fit: the fit of the matrix before it was cut.
        spectrum: the matrix now: p eigenvalues, of which the lowest p − rank were cut off.
        rank: number of eigenvalues that are left.
        spikes: number of eigenvalues above the earlier edge.

    Returns:
        The fit with a new sigma and edge; the earlier fit where too few eigenvalues are left of
        the bulk.
    """
    moved, seen = fit, set[int]()
    while rank - spikes >= MIN_EIGENVALUES and fit.law.sigma > 0 and spikes not in seen:
        seen.add(spikes)
        bulk = without(spectrum, spikes)
        left = np.arange(spectrum.p - rank, bulk.p)
        quantiles = MarchenkoPastur(bulk.gamma).ppf((left + 0.5) / bulk.p)
        variance = float(quantiles @ bulk.eigenvalues[left] / (quantiles @ quantiles))
        moved = _moved(fit, variance)
        spikes = spectrum.count_above(moved.edge)
    return moved


def _moved(fit: EdgeFit, variance: float) -> EdgeFit:
    """Return the fit for another variance of the noise."""
    ratio = variance / fit.law.sigma**2
    scale = None if fit.noise.scale is None else fit.noise.scale * ratio
    return replace(
        fit,
        law=MarchenkoPastur(fit.law.gamma, variance**0.5),
        edge=fit.edge * ratio,
        noise=Noise(fit.noise.top * ratio, scale),
        sigma_error=None,
        p_value=None,
    )
