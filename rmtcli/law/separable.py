"""The edge of noise whose variances differ by row and by column.

The entry in row i and column j of W is independent noise of variance aᵢ bⱼ: a separable variance
profile. The eigenvalues of WᵀW/n follow the law of Couillet and Hachem (2014), of which
Marchenko–Pastur is the case of equal variances. Above the bulk, its two functions are real and are
the coordinates of a curve. The edge is the lowest point of that curve, and its curvature there
scales the Tracy–Widom fluctuation (Ding and Yang, 2022).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from rmtcli.arrays import FloatArray
from rmtcli.law.roots import bracketed


@dataclass(frozen=True, slots=True, eq=False)
class Separable:
    """The law for given variances.

    Attributes:
        rows: shape (n,), positive: the factors aᵢ of the long side.
        columns: shape (p,), positive: the factors bⱼ of the short side.
    """

    rows: FloatArray
    columns: FloatArray

    def edge(self) -> tuple[float, float]:
        """Return (upper edge, Tracy–Widom scale), both in eigenvalue units.

        With E(e) = mean of e aᵢ/(1 + e aᵢ) and F(f) = Σ f bⱼ/(1 + f bⱼ)/n for negative e and f,
        the equation E(e) = F(f) determines f, and z = −E(e)/(e f) is the point on the real axis
        (Couillet and Hachem, 2014, equation 1.3, for real z above the bulk). The edge is the
        least z.
        """
        # Normalised, so that the bracket (−1, 0) of e does not depend on the unit of the weights.
        a, b = self.rows / self.rows.max(), self.columns / self.columns.max()
        unit = float(self.rows.max() * self.columns.max())
        share = len(b) / len(a)  # p/n

        def curves(e: FloatArray) -> tuple[FloatArray, FloatArray, FloatArray]:
            """Return (E, E′, E″), then (f, f′, f″) by e, then the slope of log z."""
            of_e = _sums(e, a)  # E, E′, E″
            f = _inverse(of_e[0] / share, b)  # F(f) = E(e)
            of_f = share * _sums(f, b)  # F, dF/df, d²F/df²
            df = of_e[1] / of_f[1]  # E′ = F′ f′
            d2f = (of_e[2] - of_f[2] * df**2) / of_f[1]  # E″ = F″ f′² + F′ f″
            slope = of_e[1] / of_e[0] - 1 / e - df / f  # (log z)′ = E′/E − 1/e − f′/f
            return of_e, np.stack([f, df, d2f]), slope

        e = bracketed(lambda x: curves(x)[2], [-1 + _POLE], -_POLE)  # (log z)′ = 0
        of_e, of_f, _ = curves(e)
        z = -of_e[0] / (e * of_f[0])  # z = −E/(e f)
        # At the minimum, z″ = z (log z)″ and (log z)″ = 1/e² + (log E)″ − (log f)″.
        curvature = z * (1 / e**2 + _second_of_log(*of_e) - _second_of_log(*of_f))
        # The Stieltjes transform is m = −mean of 1/(1 + f bⱼ) / z = (E n/p − 1)/z; z′ = 0 here,
        # so that m′ = E′ (n/p)/z.
        slope = of_e[1] / share / z
        # z ≈ edge + ½ z″ (e − e₀)², so that the density near the edge is c √(edge − x)/π with
        # c = |m′| √(2/z″); the Tracy–Widom scale is (p c)^(−2/3).
        density = slope * (2 / curvature) ** 0.5
        return unit * float(z[0]), unit * float((len(b) * density[0]) ** (-2 / 3))


def _sums(x: FloatArray, variances: FloatArray) -> FloatArray:
    """Return the mean of x v/(1 + x v) over the variances v, and its first two derivatives by x.

    Args:
        x: shape (m,).
        variances: the values of v, positive.

    Returns:
        Shape (3, m).
    """
    mean, slope, square, pole = _mean_and_slope(x, variances)
    # Not matrix products, whose last digit changes with the number of threads.
    return np.stack((mean, slope, -2 * (square * pole).sum(axis=1) / len(variances)))


def _mean_and_slope(
    x: FloatArray, variances: FloatArray
) -> tuple[FloatArray, FloatArray, FloatArray, FloatArray]:
    """Return the mean of x v/(1 + x v), its slope, and the terms of the slope and their poles."""
    v = 1 / variances
    pole = 1 / (v + x[:, None])  # v/(1 + x v) with v the variance
    square = v * pole * pole  # derivative of x · pole
    return x * pole.sum(axis=1) / len(v), square.sum(axis=1) / len(v), square, pole


def _inverse(means: FloatArray, variances: FloatArray) -> FloatArray:
    """Return the x in (−1, 0) at which the mean of x v/(1 + x v) has the given values.

    The mean is concave in x, so that Newton's steps from below approach the root without passing
    it. Two points below are known: the root with the mean variance in place of each (Jensen's
    inequality), and the root with the largest variance alone.

    Args:
        means: shape (m,), negative.
        variances: the values of v, positive, the largest of them 1.
    """
    alone = len(variances) * means
    x = np.maximum(alone / (1 - alone), means / (1 - means) / np.mean(variances))
    while True:
        value, slope, *_ = _mean_and_slope(x, variances)
        step = (means - value) / slope
        if not np.any(step > _ROUNDING * np.abs(x)):
            return x
        x = x + step


def _second_of_log(y: FloatArray, first: FloatArray, second: FloatArray) -> FloatArray:
    """Return (log y)″ = y″/y − (y′/y)²."""
    return second / y - (first / y) ** 2


def one_sided_edge(variances: FloatArray, others: int, n: int) -> tuple[float, float]:
    """Return (upper edge, Tracy–Widom scale) where variances differ along one side only.

    With either side, z(x) = (Σ vᵢ/(1 + x vᵢ) − m/x)/n (Silverstein and Choi, 1995). Between its
    poles it is convex, its least value is the edge, and the scale is (n √(2/z″))^(−2/3) (El Karoui,
    2007).

    Args:
        variances: shape (p,) or (n,), positive: the variances along the side where they differ.
        others: length m of the other side.
        n: length of the long side.
    """
    v = variances / variances.max()

    def slope(x: FloatArray) -> FloatArray:
        """Return n z′(x)."""
        return np.asarray(others / x**2 - np.sum((v / (1 + x[:, None] * v)) ** 2, axis=1))

    x = float(bracketed(slope, [-1 + _POLE], -_POLE)[0])
    edge = (float(np.sum(v / (1 + x * v))) - others / x) / n
    curvature = 2 * (float(np.sum((v / (1 + x * v)) ** 3)) - others / x**3) / n
    unit = float(variances.max())
    return unit * edge, unit * float((n * (2 / curvature) ** 0.5) ** (-2 / 3))


#: Distance that the law's parameter keeps from its poles.
_POLE = 1e-9
#: Newton's steps end when their relative size is no larger than this.
_ROUNDING = 4 * np.finfo(np.float64).eps
