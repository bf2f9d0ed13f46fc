"""The edge of noise whose variances differ by row and by column.

Row i and column j of W hold independent entries of variance aᵢ bⱼ: a separable profile. The
eigenvalues of WᵀW/n follow the law of Couillet and Hachem (2014), of which Marchenko–Pastur is
the case of equal variances. Above the bulk its two functions are real and lie on one curve; the
edge is that curve's lowest point, and the curvature there scales the Tracy–Widom fluctuation
(Ding and Yang, 2022).
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
        """(upper edge, Tracy–Widom scale), both in eigenvalue units.

        With E(e) = mean of e aᵢ/(1 + e aᵢ) and F(f) = Σ f bⱼ/(1 + f bⱼ)/n for negative e and f,
        E(e) = F(f) gives f, and z = −E(e)/(e f) the place on the real axis (Couillet and Hachem,
        2014, equation 1.3, for real z above the bulk). The edge is the least z.
        """
        # Normalised, so that brackets do not depend on the unit of the weights.
        a, b = self.rows / self.rows.max(), self.columns / self.columns.max()
        unit = float(self.rows.max() * self.columns.max())
        share = len(b) / len(a)

        def curves(e: FloatArray) -> tuple[FloatArray, FloatArray, FloatArray]:
            """E and its derivatives; f, and its derivatives by e; the slope of log z."""
            of_e = _sums(e, a)
            f = _inverse(of_e[0] / share, b)
            of_f = share * _sums(f, b)
            df = of_e[1] / of_f[1]
            of_f = np.stack([f, df, (of_e[2] - of_f[2] * df**2) / of_f[1]])
            return of_e, of_f, of_e[1] / of_e[0] - 1 / e - df / f

        e = bracketed(lambda x: curves(x)[2], [-1 + _POLE], -_POLE)
        of_e, of_f, _ = curves(e)
        z = -of_e[0] / (e * of_f[0])
        # Where z is least, z″/z is the second derivative of log z.
        curvature = z * (1 / e**2 + _bend(*of_e) - _bend(*of_f))
        # The Stieltjes transform is −mean of 1/(1 + f bⱼ), by z; there z does not change with e.
        slope = of_e[1] / share / z
        # The density near the edge is c √(edge − x) / π; c = √(2/z″) |dm/de|.
        density = slope * (2 / curvature) ** 0.5
        return unit * float(z[0]), unit * float((len(b) * density[0]) ** (-2 / 3))


def _sums(x: FloatArray, variances: FloatArray) -> FloatArray:
    """The mean of x v/(1 + x v) and its first two derivatives by x, shape (3, m)."""
    v = 1 / variances
    pole = 1 / (v + x[:, None])
    square = v * pole * pole
    # Not matrix products, whose last digit changes with the number of threads.
    terms = x * pole.sum(axis=1), square.sum(axis=1), -2 * (square * pole).sum(axis=1)
    return np.stack(terms) / len(v)


def _inverse(means: FloatArray, variances: FloatArray) -> FloatArray:
    """The x in (−1, 0) with that mean of x v/(1 + x v), for variances of at most 1.

    The mean is concave in x, so that Newton's steps from below come nearer without passing. Below
    are the roots with the mean variance in place of each (Jensen), and with the largest one alone.
    """
    alone = len(variances) * means
    x = np.maximum(alone / (1 - alone), means / (1 - means) / np.mean(variances))
    while True:
        value, slope, _ = _sums(x, variances)
        step = (means - value) / slope
        if not np.any(step > _ROUNDING * np.abs(x)):
            return x
        x = x + step


def _bend(y: FloatArray, first: FloatArray, second: FloatArray) -> FloatArray:
    """The second derivative of log y."""
    return second / y - (first / y) ** 2


def one_sided_edge(variances: FloatArray, others: int, n: int) -> tuple[float, float]:
    """The edge where variances differ along one side only: (upper edge, Tracy–Widom scale).

    Then z(x) = (Σ vᵢ/(1 + x vᵢ) − m/x)/n for both sides (Silverstein and Choi, 1995), convex in
    between its poles, with the edge as least value and the scale (n √(2/z″))^(−2/3) (El Karoui,
    2007).

    Args:
        variances: shape (p,) or (n,), positive: those along the side on which they differ.
        others: length m of the other side.
        n: length of the long side.
    """
    v = variances / variances.max()

    def slope(x: FloatArray) -> FloatArray:
        return np.asarray(others / x**2 - np.sum((v / (1 + x[:, None] * v)) ** 2, axis=1))

    x = float(bracketed(slope, [-1 + _POLE], -_POLE)[0])
    edge = (float(np.sum(v / (1 + x * v))) - others / x) / n
    curvature = 2 * (float(np.sum((v / (1 + x * v)) ** 3)) - others / x**3) / n
    unit = float(variances.max())
    return unit * edge, unit * float((n * (2 / curvature) ** 0.5) ** (-2 / 3))


#: How near to a pole of the law its parameter may come.
_POLE = 1e-9
#: Newton's steps end when they are no larger than this, relative.
_ROUNDING = 4 * np.finfo(np.float64).eps
