"""The Tracy–Widom law (real, order 1) of the largest noise eigenvalue.

Tracy and Widom (1996); Johnstone (2001) for the fluctuations at the Marchenko–Pastur edge. SciPy
has no such law; :func:`cdf` and :func:`quantile` are equivalent to ``ptw(s, beta = 1)`` and
``qtw(u, beta = 1)`` of the R package RMTstat.

The distribution function is a Fredholm determinant (Ferrari and Spohn, 2005), discretised by
Gauss–Legendre quadrature (Bornemann, 2010). It takes a determinant and 528 Airy functions per
value, so that it is tabulated here, as two Chebyshev series; ``tests/law/test_tracy_widom.py``
computes the determinant and compares.
"""

from __future__ import annotations

import math
from functools import lru_cache

import numpy as np
from numpy.typing import ArrayLike

from rmtcli.arrays import FloatArray
from rmtcli.law.marchenko_pastur import MarchenkoPastur
from rmtcli.law.roots import bracketed

#: The law has less mass than 1e-20 below the first of these points, and less than float64 can
#: distinguish from 0 beside 1 above the last one. The series meet at the other.
LOW, MIDDLE, HIGH = -10.0, 1.0, 13.0
#: Mean and variance of the law (Bornemann, 2010, table 10).
MEAN, VARIANCE = -1.2065335745820, 1.6077810345810


def cdf(s: ArrayLike) -> FloatArray:
    """Return the distribution function F₁(s), with an error below 1e-13, in the shape of s.

    F₁(s) = det(1 − V) on L²(s, ∞) with V(x, y) = ½ Ai((x + y)/2) (Ferrari and Spohn, 2005,
    equation 1).
    """
    s = np.asarray(s, dtype=np.float64)
    below, above = _series(s)
    return np.where(s < MIDDLE, below, 1 - above)


def survival(s: ArrayLike) -> FloatArray:
    """Return 1 − F₁(s), with an error below 1e-14 above ``MIDDLE``, in the shape of s."""
    s = np.asarray(s, dtype=np.float64)
    below, above = _series(s)
    return np.where(s < MIDDLE, 1 - below, above)


@lru_cache(maxsize=64)
def quantile(u: float) -> float:
    """Return the quantile of the law: the inverse of :func:`cdf`.

    A centred and scaled largest noise eigenvalue is below it with chance u.

    Raises:
        ValueError: u outside (0, 1).
    """
    if not 0 < u < 1:
        raise ValueError(f"a Tracy–Widom probability must be in (0, 1), not {u}")
    return float(bracketed(lambda s: cdf(s) - u, LOW, HIGH))


def scale(law: MarchenkoPastur, p: int) -> float:
    """Return the scale of the fluctuation of the largest of p noise eigenvalues.

    It is sigma² n^(−2/3) γ^(−1/6) (1+√γ)^(4/3) in eigenvalue units (Johnstone, 2001, as written by
    Ke, Ma and Lin, 2023, algorithm 1).
    """
    n = p / law.gamma
    unit = n ** (-2 / 3) * law.gamma ** (-1 / 6) * (1 + math.sqrt(law.gamma)) ** (4 / 3)
    return float(law.mean * unit)


def _series(s: FloatArray) -> tuple[FloatArray, FloatArray]:
    """Return F₁ as it is below ``MIDDLE``, and 1 − F₁ as it is above; each in the shape of s."""
    parts = ((_BELOW, LOW, MIDDLE), (_ABOVE, MIDDLE, HIGH))
    below, above = (_chebyshev(table, s, low, high) for table, low, high in parts)
    return np.where(s <= LOW, 0.0, np.maximum(below, 0.0)), np.maximum(above, 0.0) * (s < HIGH)


def _chebyshev(coefficients: FloatArray, s: FloatArray, low: float, high: float) -> FloatArray:
    """Return Σ cₖ Tₖ(t) for t from −1 at ``low`` to 1 at ``high``, and beyond them as there."""
    angle = np.arccos(np.clip((2 * s - low - high) / (high - low), -1, 1))
    # Not a matrix product, whose last digit changes with the number of threads.
    return np.asarray(
        (np.cos(angle[..., None] * np.arange(len(coefficients))) * coefficients).sum(axis=-1)
    )


#: Chebyshev coefficients of F₁ on [LOW, MIDDLE], and of 1 − F₁ on [MIDDLE, HIGH].
# fmt: off
_BELOW = np.array([
    2.827743373487259e-01, 4.699798852083134e-01, 2.494268857881925e-01, 4.267389680909398e-02,
    -5.501747254555912e-02, -4.971541379069656e-02, -8.858653039577136e-03, 1.367400619575739e-02,
    1.043597764030076e-02, 1.304405375815752e-04, -3.665074398118361e-03, -1.613544667794755e-03,
    6.060413865675979e-04, 7.641391068312830e-04, 6.857179395276497e-05, -2.211534216222846e-04,
    -8.843276207056244e-05, 4.238128400432709e-05, 3.756429060518040e-05, -3.135130908322736e-06,
    -1.146681900930480e-05, -1.570633341242272e-06, 2.839778574376395e-06, 9.487383987581699e-07,
    -5.880731382522375e-07, -3.401300878812241e-07, 9.958153517938828e-08, 9.877590759488352e-08,
    -1.199506948906803e-08, -2.527090471493576e-08, 1.382810523031797e-10, 5.917008125827516e-09,
    5.008356200597586e-10, -1.296499547165375e-09, -2.078840316555031e-10, 2.699518043824956e-10,
    6.108964029083452e-11, -5.404684713661290e-11, -1.534245883116902e-11, 1.050398504287564e-11,
    3.490747968459829e-12, -1.999014981324265e-12, -7.402051194205228e-13, 3.734347553407958e-13,
    1.466171628550228e-13, -7.066972007585548e-14, -2.946129451508739e-14, 1.129249471709670e-14,
    3.581995811074990e-15, -3.889111255261923e-15, -2.554206846028251e-15,
])
_ABOVE = np.array([
    6.491131565045633e-03, -1.230346794162842e-02, 1.046445115215352e-02, -7.967381574573287e-03,
    5.403904385744573e-03, -3.237298120949742e-03, 1.687118381876527e-03, -7.427219797392546e-04,
    2.579728779492563e-04, -5.561308571684212e-05, -6.233002175320699e-06, 1.398560253053176e-05,
    -8.360303051474712e-06, 3.196365822909046e-06, -7.327979950870565e-07, -1.834443828947589e-08,
    1.111488030022031e-07, -6.023757153647904e-08, 1.904168012430846e-08, -2.926568376023647e-09,
    -6.557396476248450e-10, 6.473151735811311e-10, -2.494235230854347e-10, 5.556995341313153e-11,
    -2.632604247446157e-12, -3.731165194517660e-12, 1.898736029515291e-12, -5.449928702772056e-13,
    9.729098603139529e-14, -4.176225337770844e-15, -4.881355736285897e-15, 2.719231090297924e-15,
    -1.074305575055057e-15, 3.614209626023879e-16, -1.115080250357892e-16, 5.587544316121296e-17,
    -1.674875516055607e-17,
])
# fmt: on
