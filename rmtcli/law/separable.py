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
from numpy.typing import NDArray

FloatArray = NDArray[np.float64]


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

        With e < 0 as parameter, G(e) = mean of aᵢ/(1 + e aᵢ) and H(f) = Σ bⱼ/(1 + f bⱼ)/n:
        e G(e) = f H(f) gives f, and z = −G(e)/f the place on the real axis (Couillet and Hachem,
        2014, equation 1.3, for real z above the bulk). The edge is the least z.
        """
        from scipy.optimize import brentq, minimize_scalar  # takes 0.2 s, and few layers need it

        # Normalised, so that brackets do not depend on the unit of the weights.
        a, b = self.rows / self.rows.max(), self.columns / self.columns.max()
        n = len(a)
        unit = float(self.rows.max() * self.columns.max())

        def f_of(e: float) -> float:
            wanted = float(np.mean(e * a / (1 + e * a)))

            def excess(f: float) -> float:
                return float(np.sum(f * b / (1 + f * b)) / n) - wanted

            low = 0.5
            while excess(-1 + low) > 0 and low > _POLE:
                low /= 2
            return float(brentq(excess, -1 + low, 0.0, xtol=1e-15, rtol=1e-13))

        def z_of(e: float) -> float:
            return -float(np.mean(a / (1 + e * a))) / f_of(e)

        found = minimize_scalar(z_of, bounds=(-1 + _POLE, -_POLE), options={"xatol": 1e-10})
        e, z = float(found.x), float(found.fun)
        step = 1e-3 * min(-e, 1 + e)
        ends = [e - step, e, e + step]
        places = [z_of(x) for x in ends]
        curvature = (places[0] - 2 * places[1] + places[2]) / step**2

        def stieltjes(x: float) -> float:
            return float(-np.mean(1 / (1 + f_of(x) * b)) / z)

        slope = (stieltjes(ends[2]) - stieltjes(ends[0])) / (2 * step)
        # The density near the edge is c √(edge − x) / π; c = √(2/z'') |dm/de|.
        density = abs(slope) * (2 / curvature) ** 0.5
        return unit * z, unit * (len(b) * density) ** (-2 / 3)


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
    from scipy.optimize import brentq

    v = variances / variances.max()

    def slope(x: float) -> float:
        return float(others / x**2 - np.sum((v / (1 + x * v)) ** 2))

    x = brentq(slope, -1 + _POLE, -_POLE, xtol=1e-15, rtol=1e-13)
    edge = (float(np.sum(v / (1 + x * v))) - others / x) / n
    curvature = 2 * (float(np.sum((v / (1 + x * v)) ** 3)) - others / x**3) / n
    unit = float(variances.max())
    return unit * edge, unit * float((n * (2 / curvature) ** 0.5) ** (-2 / 3))


#: How near to a pole of the law its parameter may come.
_POLE = 1e-9
