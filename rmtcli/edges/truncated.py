"""The edge of a matrix whose smallest singular values were cut off earlier.

Such a matrix has no bulk to fit a law on: most of what it was is gone, and zeros stand in its
place. But the upper end of the bulk may still be there, in the same places of the order, and it
tells whether the noise has grown or shrunk since the whole of it was seen.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from rmtcli.edges.base import MIN_EIGENVALUES, EdgeFit, Noise
from rmtcli.edges.judge import without
from rmtcli.law.marchenko_pastur import MarchenkoPastur
from rmtcli.spectra import Spectrum


def follow(fit: EdgeFit, spectrum: Spectrum, rank: int, spikes: int) -> EdgeFit:
    """An earlier fit, carried over to what the matrix has become.

    The eigenvalues that are left of the bulk keep their places i in it. They are matched to
    the law's quantiles there, as BEMA matches the middle ones (Ke, Ma and Lin, 2023):
    sigma² = Σ qᵢ λᵢ / Σ qᵢ², the cut ones left out of both sums. The edge moves with sigma²; what
    then stands on the other side of it is counted anew, and the match repeated.

    Args:
        fit: of the matrix earlier.
        spectrum: of the matrix now, p eigenvalues, the lowest p − rank of them cut off.
        rank: how many are left.
        spikes: how many stood above the earlier edge.

    Returns:
        The fit with another sigma and edge; unchanged where too few eigenvalues are left of the
        bulk to tell.
    """
    moved, seen = fit, set[int]()
    while rank - spikes >= MIN_EIGENVALUES and fit.law.sigma > 0 and spikes not in seen:
        seen.add(spikes)
        bulk = without(spectrum, spikes)
        places = np.arange(spectrum.p - rank, bulk.p)
        quantiles = MarchenkoPastur(bulk.gamma).ppf((places + 0.5) / bulk.p)
        variance = float(quantiles @ bulk.eigenvalues[places] / (quantiles @ quantiles))
        moved = _moved(fit, variance)
        spikes = spectrum.count_above(moved.edge)
    return moved


def _moved(fit: EdgeFit, variance: float) -> EdgeFit:
    """The same fit for another variance of the noise."""
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
