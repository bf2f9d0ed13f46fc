"""The units of a hidden layer that matter most, and the next layer refitted to read only them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from rmtcli.arrays import FloatArray
from rmtcli.calibration.measure import GRADIENT_FLOOR, second_of
from rmtcli.calibration.moments import Moments

#: Ridge of the readers' least squares, as a share of the units' mean variance.
RIDGE = 1e-4
#: Units that leave between two updates of the whole matrices.
_BLOCK = 48


@dataclass(frozen=True, slots=True, eq=False)
class Reader:
    """A layer that reads some of its inputs only.

    Attributes:
        weight: shape (out, width): its weight, one column per unit that is left.
        shift: shape (out,): what its bias takes; None without a bias.
    """

    weight: FloatArray
    shift: FloatArray | None


@dataclass(frozen=True, slots=True, eq=False)
class Narrowing:
    """The best units of a hidden layer at every width, for the layers that read it.

    The sets are nested: the units of a width are the first ones of ``order``.

    Attributes:
        weights: of the layers that read the units, shapes (out_i, units).
        moments: of the same layers; the moments of their inputs are one.
        bias: whether each of these layers has a bias, which takes the mean of what is dropped.
        gradients: whether errors are measured by the moments of the output gradients.
        order: shape (units,): the units, the most important first.
        losses: shape (units + 1,), descending: the loss at each width, on the scale of
            :class:`~rmtcli.calibration.MetricDecomposition`. It includes the ridge's part, so the
            exact loss is not larger.
    """

    weights: Sequence[NDArray[np.floating]]
    moments: Sequence[Moments]
    bias: bool
    gradients: bool
    order: NDArray[np.int64]
    losses: FloatArray

    def units(self, width: int) -> NDArray[np.int64]:
        """The units of a width, in the order of the layer."""
        return np.sort(self.order[:width])

    def rows(self, writer: int, width: int, matrix: NDArray[np.floating]) -> NDArray[np.floating]:
        """A writer's matrix, shape (units, …), without the rows of the units that go."""
        return matrix[self.units(width)]

    def outputs(self, writer: int, width: int, gradient: FloatArray) -> FloatArray:
        """The moment of a writer's output gradients at a width."""
        units = self.units(width)
        return gradient[np.ix_(units, units)]

    def inputs(self, width: int, moments: Moments) -> Moments:
        """The moments of what the readers read at a width."""
        units = self.units(width)
        second = moments.second[np.ix_(units, units)]
        return replace(moments, mean=moments.mean[units], second=second)

    def readers(self, width: int) -> list[Reader]:
        """The layers that read the units of a width, fitted to give the dense layers' outputs.

        With P the units that are left, C the moment of all units and ε the ridge,
        W' = W_P + W_rest C_{rest,P} (C_PP + εI)⁻¹ (least squares), and the shift is
        W E[h] − W' E[h_P].
        """
        units, mean = self.units(width), self.moments[0].mean
        second = ridged(second_of(self.moments[0], self.bias))
        dense: list[FloatArray] = [weight.astype(np.float64) for weight in self.weights]
        stacked = np.concatenate(dense)
        new = np.linalg.solve(second[np.ix_(units, units)], second[units] @ stacked.T).T
        parts = np.split(new, np.cumsum([len(weight) for weight in dense])[:-1])
        return [
            Reader(part, weight @ mean - part @ mean[units] if self.bias else None)
            for weight, part in zip(dense, parts, strict=True)
        ]

    def loss(self, width: int) -> float:
        """The exact expected loss of the refitted layers, tr(A (1−T) C (1−T)ᵀ), W' = W T."""
        units = self.units(width)
        rest = np.eye(len(self.order))
        rest[:, units] -= self._maps(units)
        second = second_of(self.moments[0], self.bias)
        measure = measure_of(self.weights, self.moments, gradients=self.gradients)
        return max(float(np.sum((measure @ rest) * (rest @ second))), 0.0)

    def _maps(self, units: NDArray[np.int64]) -> FloatArray:
        """Shape (units, width): W ↦ W' of :meth:`readers`."""
        second = ridged(second_of(self.moments[0], self.bias))
        own = second[np.ix_(units, units)]
        return np.asarray(np.linalg.solve(own, second[units]).T)


def narrow_units(
    weights: Sequence[NDArray[np.floating]],
    moments: Sequence[Moments],
    *,
    bias: bool,
    gradients: bool,
) -> Narrowing:
    """Order the units of a hidden layer by what dropping them costs, others making up for them.

    Layers W_i read the units h, with the second moment C, and the loss of maps A_i of some units
    alone is Σᵢ E‖R_i(W_i h − A_i h_P)‖², with R_i² = G_i the moment of the output gradients (or 1).
    This is the loss of :func:`~rmtcli.calibration.decompose`, with columns dropped instead of
    directions. Units are dropped one by one, each time the one whose loss is smallest when all
    others are refitted: the optimal brain surgeon (Hassibi and Stork, 1993) for whole columns. With
    Q = C⁻¹ and M = Σ W_iᵀ G_i W_i, dropping unit j adds M_jj/Q_jj, and then

        Q ← Q − Q_j Q_jᵀ/Q_jj,    W ← W − W_j Q_jᵀ/Q_jj.

    Choosing columns and refitting what reads them is MoDeGPT's way with the two matrices of an MLP
    (arXiv 2408.09632, there with ridge leverage scores), and a chain of layers that is made
    narrower is the right-sizing of Paul and Nelson.

    Args:
        weights: of the layers that read the units, shapes (out_i, units).
        moments: of the same layers; the moments of their inputs are one.
        bias: whether each layer has a bias, which takes the mean of what is dropped.
        gradients: whether to use the moments of the output gradients.

    Raises:
        ValueError: gradients are to be used and were not collected.
    """
    second = ridged(second_of(moments[0], bias))
    measure = measure_of(weights, moments, gradients=gradients)
    inverse: FloatArray = np.linalg.inv(second).astype(np.float64, copy=False)
    dropped, costs = eliminate(inverse, measure)
    losses = np.append(np.cumsum(costs)[::-1], 0.0)
    return Narrowing(weights, moments, bias, gradients, dropped[::-1], losses)


def eliminate(
    inner: FloatArray, outer: FloatArray, *, largest: bool = False
) -> tuple[NDArray[np.int64], FloatArray]:
    """Take the columns of X out one by one, each time the one of the smallest ‖X_j‖²/Y_jj.

    After each, Y ← Y − Y_j Y_jᵀ/Y_jj and X ← X − X_j Y_jᵀ/Y_jj. Only XᵀX is held. With Y = C⁻¹ and
    X = RW this is backward elimination; with Y = C, X = RWC and the *largest* quotient it is greedy
    forward selection, whose quotient is the loss that a unit removes. The updates of a block of
    columns are applied to the others in one matrix product, so that n columns take about n³
    multiply-adds.

    Args:
        inner: Y, shape (n, n), symmetric and positive definite.
        outer: XᵀX, shape (n, n).
        largest: whether the column with the largest quotient leaves.

    Returns:
        The columns in the order in which they left, and their quotients.
    """
    sign = -1.0 if largest else 1.0
    left = np.arange(len(inner))
    order, quotients = np.empty(len(left), np.int64), np.zeros(len(left))
    done = 0
    while len(left):
        steps = min(_BLOCK, len(left))
        free = np.ones(len(left), bool)
        q, v = np.zeros((len(left), steps)), np.zeros((len(left), steps))
        scale = np.zeros(steps)
        y, m = inner.diagonal().copy(), outer.diagonal().copy()
        for t in range(steps):
            quotient = np.maximum(m, 0.0) / np.maximum(y, np.finfo(np.float64).tiny)
            j = int(np.argmin(np.where(free, sign * quotient, np.inf)))
            order[done + t], quotients[done + t] = left[j], quotient[j]
            free[j] = False
            column = inner[:, j] - q[:, :t] @ (scale[:t] * q[j, :t])
            other = outer[:, j] - q[:, :t] @ v[j, :t] - v[:, :t] @ q[j, :t]
            scale[t] = max(float(column[j]), np.finfo(np.float64).tiny)
            q[:, t] = column / scale[t]
            v[:, t] = other - other[j] / 2 * q[:, t]
            y -= scale[t] * q[:, t] ** 2
            m -= 2 * q[:, t] * v[:, t]
        done += steps
        a, b, left = q[free], v[free], left[free]
        inner, outer = _among(inner, free), _among(outer, free)
        inner -= (a * scale) @ a.T
        outer -= np.hstack([a, b]) @ np.hstack([b, a]).T
    return order, quotients


def _among(matrix: FloatArray, free: NDArray[np.bool_]) -> FloatArray:
    """The rows and columns that are left."""
    return np.asarray(np.compress(free, np.compress(free, matrix, axis=0), axis=1))


def ridged(second: FloatArray) -> FloatArray:
    """A moment plus ε on its diagonal."""
    mean = float(np.trace(second)) / len(second)
    ridge = RIDGE * mean + np.finfo(np.float64).tiny
    return np.asarray(second + ridge * np.eye(len(second)))


def measure_of(
    weights: Sequence[NDArray[np.floating]], moments: Sequence[Moments], *, gradients: bool
) -> FloatArray:
    """Σ uses_i W_iᵀ G_i W_i, shape (units, units); the eigenvalues of G are raised as elsewhere.

    Raises:
        ValueError: gradients are to be used and were not collected.
    """
    total: FloatArray = np.zeros((weights[0].shape[1],) * 2)
    for weight, own in zip(weights, moments, strict=True):
        dense: FloatArray = weight.astype(np.float64)
        if gradients:
            if own.gradient is None:
                raise ValueError("no output gradients were collected")
            values, vectors = np.linalg.eigh(own.gradient)
            least = max(GRADIENT_FLOOR * float(values[-1]), np.finfo(np.float64).tiny)
            dense = np.sqrt(np.maximum(values, least))[:, None] * (vectors.T @ dense)
        total += own.uses * (dense.T @ dense)
    return total
