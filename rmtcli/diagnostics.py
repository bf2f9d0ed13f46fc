"""Figures of a spectrum that people know from elsewhere; nothing is decided by them."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from rmtcli.arrays import FloatArray
from rmtcli.edges import EdgeFit
from rmtcli.law import porter_thomas
from rmtcli.law.power_law import clauset, hill
from rmtcli.spectra import Spectrum, max_abs, times


@dataclass(frozen=True, slots=True)
class Diagnostics:
    """Shape and size of a spectrum; all but the norms and x_min do not depend on scale.

    Attributes:
        tail_alpha: exponent of the power law of the largest eigenvalues, by Clauset's method; None
            where all are equal. WeightWatcher's alpha.
        tail_alpha_error: its standard error.
        tail_x_min: where that tail begins, in eigenvalue units.
        tail_count: eigenvalues in it.
        tail_distance: Kolmogorov–Smirnov distance of the tail to its power law.
        hill_alpha: Hill's estimate of the exponent, from the larger half of the eigenvalues.
        stable_rank: ‖W‖_F²/‖W‖₂².
        mp_soft_rank: λ₊/λ_max (Martin and Mahoney, 2021); above 1 where no eigenvalue is above λ₊.
        spectral_entropy: of the shares λᵢ/Σλ, over ln p; 1 where all are equal, and for p = 1.
        frobenius_norm: ‖W‖_F.
        spectral_norm: ‖W‖₂.
    """

    tail_alpha: float | None
    tail_alpha_error: float | None
    tail_x_min: float | None
    tail_count: int
    tail_distance: float | None
    hill_alpha: float | None
    stable_rank: float
    mp_soft_rank: float
    spectral_entropy: float
    frobenius_norm: float
    spectral_norm: float


def diagnose(spectrum: Spectrum, fit: EdgeFit) -> Diagnostics:
    """The diagnostics of a spectrum that is not zero."""
    values = spectrum.eigenvalues
    law = clauset(values)
    largest = float(values[-1])
    relative = values / largest
    shares = relative[relative > 0] / relative.sum()
    levels = math.log(spectrum.p)
    stable_rank = float(relative.sum())
    spectral_norm = math.sqrt(spectrum.n) * math.sqrt(largest)
    return Diagnostics(
        tail_alpha=law.alpha if law else None,
        tail_alpha_error=law.error if law else None,
        tail_x_min=law.x_min if law else None,
        tail_count=law.count if law else 0,
        tail_distance=law.distance if law else None,
        hill_alpha=hill(values),
        stable_rank=stable_rank,
        mp_soft_rank=fit.law.lambda_plus / largest,
        spectral_entropy=-float(shares @ np.log(shares)) / levels if levels else 1.0,
        frobenius_norm=spectral_norm * math.sqrt(stable_rank),
        spectral_norm=spectral_norm,
    )


@dataclass(frozen=True, slots=True, eq=False)
class VectorTest:
    """Porter–Thomas p-values of the singular vectors of k spikes, largest spike first.

    Attributes:
        out: shape (k,): of the vectors on the side of the layer's outputs.
        into: shape (k,): of those on the side of its inputs.
    """

    out: FloatArray
    into: FloatArray


def compare_vectors(weight: NDArray[np.floating], spectrum: Spectrum, spikes: int) -> VectorTest:
    """Compare the vectors of the spikes with those of noise, on both sides.

    Args:
        weight: shape (out, in).
        spectrum: of that weight, with vectors.
        spikes: how many of the largest eigenvalues are spikes.

    Raises:
        ValueError: a spectrum without vectors.
    """
    if spectrum.form is None:
        raise ValueError("a test of vectors needs a spectrum with vectors")
    short = spectrum.leading(spikes)
    long = times(weight, short, max_abs(weight))
    sides = porter_thomas.p_values(long), porter_thomas.p_values(short)
    out, into = sides if weight.shape[0] >= weight.shape[1] else sides[::-1]
    return VectorTest(out, into)
