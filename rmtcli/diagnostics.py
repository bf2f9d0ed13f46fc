"""Well-known figures of a spectrum, which are reported and decide nothing."""

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
    """Shape and size of a spectrum; only the norms and ``tail_x_min`` depend on its scale.

    Attributes:
        tail_alpha: exponent of the power law of the largest eigenvalues, by Clauset's method, which
            is WeightWatcher's alpha; None where all eigenvalues are equal.
        tail_alpha_error: standard error of ``tail_alpha``.
        tail_x_min: smallest eigenvalue of the tail, in eigenvalue units.
        tail_count: number of eigenvalues in the tail.
        tail_distance: Kolmogorov–Smirnov distance between the tail and its power law.
        hill_alpha: Hill's estimate of the exponent, from the larger half of the eigenvalues.
        stable_rank: ‖W‖_F²/‖W‖₂².
        mp_soft_rank: λ₊/λ_max (Martin and Mahoney, 2021); above 1 where no eigenvalue is above λ₊.
        spectral_entropy: entropy of the shares λᵢ/Σλ, divided by ln p; 1 where all eigenvalues are
            equal, and for p = 1.
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
    """Return the diagnostics of a spectrum that is not all zeros."""
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
        out: shape (k,): p-values of the vectors over the layer's outputs.
        into: shape (k,): p-values of the vectors over the layer's inputs.
    """

    out: FloatArray
    into: FloatArray


def compare_vectors(weight: NDArray[np.floating], spectrum: Spectrum, spikes: int) -> VectorTest:
    """Compare the spikes' singular vectors of both sides with those of noise.

    Args:
        weight: shape (out, in).
        spectrum: the spectrum of ``weight``, with vectors.
        spikes: number of eigenvalues that are spikes.

    Raises:
        ValueError: the spectrum has no vectors.
    """
    if spectrum.form is None:
        raise ValueError("a test of vectors needs a spectrum with vectors")
    short = spectrum.leading(spikes)
    long = times(weight, short, max_abs(weight))
    sides = porter_thomas.p_values(long), porter_thomas.p_values(short)
    out, into = sides if weight.shape[0] >= weight.shape[1] else sides[::-1]
    return VectorTest(out, into)
