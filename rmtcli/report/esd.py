"""The empirical spectral density of a layer as a histogram, with its fitted law."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from rmtcli.arrays import FloatArray
from rmtcli.planning import LayerPlan

#: Largest number of bars; wide layers have thousands of eigenvalues.
MAX_BARS = 60
#: The axis is logarithmic if it reaches further than this multiple of the bulk.
_WIDE = 3.0
#: A logarithmic axis begins no lower than this share of λ₊; it cannot show eigenvalues near 0.
_LOWEST = 1e-3


@dataclass(frozen=True, slots=True, eq=False)
class Esd:
    """A histogram of the eigenvalues of WᵀW/n, with the law that was fitted to them.

    Attributes:
        bins: shape (bars + 1,), ascending: borders of the bars, in eigenvalue units. Eigenvalues
            below the first border are counted in the first bar.
        dropped: shape (bars,): number of eigenvalues in each bar that pruning drops.
        kept: shape (bars,): number that it keeps; all of them if the layer is left alone.
        law: shape (bars,): number of bulk eigenvalues that the Marchenko–Pastur law expects in each
            bar; None if the estimator assumes no law, or there is no noise.
        smooth: the law as a curve: positions on the axis, and the number that the law expects in a
            bar around each; None if there is no law.
        spikes: shape (spikes,): eigenvalues above the edge, largest first.
        edge: the edge, in eigenvalue units.
        interval: 95 % interval of the edge, or None if it is not known.
        logarithmic: whether the bars are equally wide on a logarithmic axis.
    """

    bins: FloatArray
    dropped: NDArray[np.int64]
    kept: NDArray[np.int64]
    law: FloatArray | None
    smooth: tuple[FloatArray, FloatArray] | None
    spikes: FloatArray
    edge: float
    interval: tuple[float, float] | None
    logarithmic: bool


def esd_of(plan: LayerPlan) -> Esd:
    """The histogram of one layer's eigenvalues.

    Args:
        plan: the layer. With calibration data its factors are not those of plain truncation, and
            the bars show only how many directions are kept.
    """
    fit, values = plan.fit, plan.spectrum.eigenvalues
    low, high, wide = axis(plan)
    bars = min(MAX_BARS, max(12, round(2 * len(values) ** 0.5)))
    bins = np.geomspace(low, high, bars + 1) if wide else np.linspace(low, high, bars + 1)
    inside = np.clip(values, bins[0], bins[-1])
    cut = len(values) - plan.rank
    dropped, kept = (np.histogram(part, bins)[0] for part in (inside[:cut], inside[cut:]))
    law = smooth = None
    if fit.noise.scale is not None and fit.law.sigma > 0:
        share = np.concatenate([[0.0], fit.law.cdf(bins[1:])])
        law = (len(values) - plan.spikes) * np.diff(share)
        smooth = _smooth(plan, bins, wide)
    return Esd(bins, dropped, kept, law, smooth, plan.above, fit.edge, fit.edge_interval, wide)


def axis(plan: LayerPlan) -> tuple[float, float, bool]:
    """Begin and end of the axis of a layer's eigenvalues, and whether it is logarithmic."""
    fit, values = plan.fit, plan.spectrum.eigenvalues
    top = fit.edge_interval[1] if fit.edge_interval else fit.edge
    bulk = fit.law.lambda_plus
    high = max(plan.largest, top, bulk)
    wide = 0 < _WIDE * bulk < high
    if wide:
        low = max(float(values[values > 0].min()), _LOWEST * bulk)
    else:
        low = min(float(values[0]), fit.law.lambda_minus)
    if high - low < 1e-6 * high:
        low, high = 0.9 * low, 1.1 * high
    return low, high, wide


def _smooth(plan: LayerPlan, bins: FloatArray, logarithmic: bool) -> tuple[FloatArray, FloatArray]:
    """The number of eigenvalues that the law expects in a bar around each of many positions.

    The mean over a bar is the quantity that a bar shows and, unlike the density, is finite at
    gamma = 1.
    """
    law = plan.fit.law
    if logarithmic:
        half = (bins[1] / bins[0]) ** 0.5
        start, end = max(bins[0], law.lambda_minus / half), law.lambda_plus * half
        positions = np.geomspace(min(start, end), min(end, bins[-1]), 121)
        below, above = positions / half, positions * half
    else:
        step = (bins[1] - bins[0]) / 2
        start, end = max(bins[0], law.lambda_minus - step), law.lambda_plus + step
        positions = np.linspace(start, min(end, bins[-1]), 121)
        below, above = positions - step, positions + step
    bulk = plan.spectrum.p - plan.spikes
    return positions, bulk * (law.cdf(above) - law.cdf(below))
