"""The signal under a spike (Benaych-Georges and Nadakuditi, 2012).

W = Σ θᵢ uᵢ vᵢᵀ + noise. In units of the noise, x = θ/(sigma √n) and y = s/(sigma √n) for an
observed singular value s. A signal is visible only above the detection limit x = γ^¼.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from rmtcli.arrays import FloatArray
from rmtcli.law.marchenko_pastur import MarchenkoPastur


@dataclass(frozen=True, slots=True, eq=False)
class Signal:
    """The signal under each of k spikes.

    Attributes:
        strength: shape (k,): true singular values θ; below the observed ones.
        long_overlap: shape (k,): squared cosine between the observed and the true vector of the
            long side, length n.
        short_overlap: shape (k,): squared cosine between the observed and the true vector of the
            short side, length p.
    """

    strength: FloatArray
    long_overlap: FloatArray
    short_overlap: FloatArray


def signal(law: MarchenkoPastur, n: int, eigenvalues: FloatArray) -> Signal:
    """Return strength and overlaps (theorem 2.9, and example 3.2 for rectangular noise).

    x² solves y² = (x² + 1)(x² + γ)/x². The overlaps are (x⁴ − γ)/(x⁴ + x²) on the long side and
    (x⁴ − γ)/(x⁴ + γx²) on the short one. Within the bulk, where no signal is visible, all are 0.

    Args:
        law: the law of the noise.
        n: long side of W.
        eigenvalues: shape (k,), in eigenvalue units.
    """
    g = law.gamma
    with np.errstate(divide="ignore", over="ignore"):
        y2 = np.where(eigenvalues > 0, eigenvalues / law.mean, 0.0) if law.mean else np.inf
    if law.mean == 0:
        ones = np.ones_like(eigenvalues)
        return Signal(np.sqrt(n * eigenvalues), ones, ones)
    b = y2 - 1 - g
    visible = y2 > (1 + math.sqrt(g)) ** 2
    x2 = np.where(visible, (b + np.sqrt(np.maximum(b * b - 4 * g, 0))) / 2, 1.0)
    # In powers of 1/x², so that no square of a strong signal overflows.
    common = 1 - g / x2 / x2
    long = np.where(visible, common / (1 + 1 / x2), 0.0)
    short = np.where(visible, common / (1 + g / x2), 0.0)
    strength = np.where(visible, law.sigma * np.sqrt(n * x2), 0.0)
    return Signal(strength, np.maximum(long, 0.0), np.maximum(short, 0.0))
