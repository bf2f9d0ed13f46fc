"""The edge of noise whose variances differ by row and by column.

The entry in row i and column j of W is independent noise of variance aᵢ bⱼ: a separable variance
profile. The eigenvalues of WᵀW/n follow the law of Couillet and Hachem (2014), of which
Marchenko–Pastur is the case of equal variances. Above the bulk, its two functions are real and are
the coordinates of a curve. The edge is the lowest point of that curve, and its curvature there
scales the Tracy–Widom fluctuation (Ding and Yang, 2022).
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from rmtcli.arrays import FloatArray
from rmtcli.law.roots import bracketed

#: A function's value and its first two derivatives.
Jet = tuple[float, float, float]


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
        e, of_e, of_f, curvature = _lowest(a, b, share)
        z = -of_e[0] / (e * of_f[0])  # z = −E/(e f)
        # At the minimum, z″ = z (log z)″. The Stieltjes transform is m = −mean of 1/(1 + f bⱼ) / z
        # = (E n/p − 1)/z; z′ = 0 here, so that m′ = E′ (n/p)/z.
        slope = of_e[1] / share / z
        # z ≈ edge + ½ z″ (e − e₀)², so that the density near the edge is c √(edge − x)/π with
        # c = |m′| √(2/z″); the Tracy–Widom scale is (p c)^(−2/3).
        density = slope * math.sqrt(2 / (z * curvature))
        return unit * z, unit * (len(b) * density) ** (-2 / 3)


def _lowest(a: FloatArray, b: FloatArray, share: float) -> tuple[float, Jet, Jet, float]:
    """Return e at the edge, (E, E′, E″) and (f, f′, f″) there, and (log z)″.

    Newton's steps for (log z)′ = 0 begin at the e of equal variances. One that leaves the interval
    in which the root is known to be is replaced by bisection.

    Args:
        a: shape (n,), the largest of them 1.
        b: shape (p,), the largest of them 1.
        share: p/n.
    """
    of_rows, of_columns = 1 / a, 1 / b
    low, high = -1.0, 0.0
    root, f, step = math.sqrt(share), 0.0, math.inf
    e = -root / (root + float(a.mean()))
    for _ in range(_STEPS):
        of_e = _means(e, of_rows)  # E, E′, E″
        f = _inverse(of_e[0] / share, of_columns, f)  # F(f) = E(e)
        _, first, second = (share * x for x in _means(f, of_columns))  # F, dF/df, d²F/df²
        df = of_e[1] / first  # E′ = F′ f′
        of_f = f, df, (of_e[2] - second * df**2) / first  # E″ = F″ f′² + F′ f″
        slope = of_e[1] / of_e[0] - 1 / e - df / f  # (log z)′
        curvature = 1 / e**2 + _second_of_log(*of_e) - _second_of_log(*of_f)
        if abs(step) <= _LAST_STEP * min(-e, 1 + e):
            break
        low, high = (low, e) if slope > 0 else (e, high)
        step = -slope / curvature
        if not low < e + step < high:
            step = (low + high) / 2 - e
        e += step
    return e, of_e, of_f, curvature


def _means(x: float, inverse: FloatArray) -> Jet:
    """Return the mean of x v/(1 + x v) over variances v, and its first two derivatives by x.

    Args:
        x: in (−1, 0).
        inverse: the values of 1/v, at least 1.
    """
    pole = 1 / (inverse + x)  # v/(1 + x v)
    square = inverse * pole * pole  # derivative of x · pole
    # Not matrix products, whose last digit changes with the number of threads.
    sums = (float(y.sum()) / len(inverse) for y in (pole, square, square * pole))
    value, slope, second = sums
    return x * value, slope, -2 * second


def _inverse(mean: float, inverse: FloatArray, guess: float) -> float:
    """Return the x in (−1, 0) at which the mean of x v/(1 + x v) has a value.

    The mean is concave in x, so that a Newton's step from any point ends below the root, and steps
    from below approach the root without passing it. Two points below are known: the root with the
    mean variance in place of each (Jensen's inequality), and the root with the largest variance
    alone.

    Args:
        mean: the value, negative.
        inverse: the values of 1/v, the least of them 1.
        guess: a point near the root.
    """
    alone = len(inverse) * mean
    least = max(alone / (1 - alone), mean / (1 - mean) / float(np.mean(1 / inverse)))
    x, step = max(guess, least), math.inf
    while True:
        pole = 1 / (inverse + x)
        value, slope = x * float(pole.sum()), float((inverse * pole * pole).sum())
        first, step = math.isinf(step), (alone - value) / slope
        if abs(step) <= _ROUNDING * abs(x) or (step < 0 and not first):
            return x
        x = max(x + step, least)


def _second_of_log(y: float, first: float, second: float) -> float:
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
#: The step to the edge is the last but one if it is this small relative to the distance from the
#: poles; the error after it is of the order of its square.
_LAST_STEP = 1e-8
#: More steps than bisection needs.
_STEPS = 2200
