"""The empirical spectral density of a layer beside its fitted law, as bars."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from rmtcli.arrays import FloatArray
from rmtcli.planning import LayerPlan

#: Bars at most; wide layers have thousands of eigenvalues.
MAX_BARS = 60
#: Where the axis would reach so many times as far as the bulk, it is logarithmic.
_WIDE = 3.0
#: A logarithmic axis begins no lower than this share of λ₊: eigenvalues near zero have no place.
_LOWEST = 1e-3


@dataclass(frozen=True, slots=True, eq=False)
class Esd:
    """A histogram of eigenvalues of WᵀW/n, with what was fitted to them.

    Attributes:
        bins: shape (bars + 1,), ascending: borders of the bars, in eigenvalue units. What lies
            below the first border is counted in the first bar.
        dropped: shape (bars,): eigenvalues in each bar that pruning drops.
        kept: shape (bars,): those that it keeps; all, where the layer is left alone.
        law: shape (bars,): how many of the bulk the Marchenko–Pastur law expects in each bar;
            None where the estimator supposes no law, or there is no noise.
        smooth: the same as a curve: places, and the law's expectation in a bar around each.
        spikes: shape (spikes,): eigenvalues above the edge, largest first.
        edge: in eigenvalue units.
        interval: its 95 % interval, or None where it is not known.
        logarithmic: whether bars are equally wide on a logarithmic axis.
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
        plan: the layer. With calibration data its factors are not those of plain truncation; the
            bars then show the rank only.
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
    """Where the axis of a layer's eigenvalues begins and ends, and whether it is logarithmic."""
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
    """What the law expects in a bar around each of many places.

    The mean over a bar, unlike the density, is finite at gamma = 1, and is what a bar shows.
    """
    law = plan.fit.law
    if logarithmic:
        half = (bins[1] / bins[0]) ** 0.5
        start, end = max(bins[0], law.lambda_minus / half), law.lambda_plus * half
        places = np.geomspace(min(start, end), min(end, bins[-1]), 121)
        below, above = places / half, places * half
    else:
        step = (bins[1] - bins[0]) / 2
        start, end = max(bins[0], law.lambda_minus - step), law.lambda_plus + step
        places = np.linspace(start, min(end, bins[-1]), 121)
        below, above = places - step, places + step
    bulk = plan.spectrum.p - plan.spikes
    return places, bulk * (law.cdf(above) - law.cdf(below))
