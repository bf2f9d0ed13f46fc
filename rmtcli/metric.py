"""A weight seen through what its layer does: truncation in the metric of the data."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from rmtcli.calibration.moments import Moments
from rmtcli.factorize import Factors
from rmtcli.spectrum import FloatArray, spectrum

#: Eigenvalues of the gradients' moment are raised to this share of the largest, so that undoing
#: its root multiplies rounding by a hundred at most. Directions that no gradient reached would
#: otherwise be free to change without limit.
GRADIENT_FLOOR = 1e-4


@dataclass(frozen=True, slots=True, eq=False)
class Decomposition:
    """Every best low-rank map of one layer in one metric; a rank is a slice.

    Attributes:
        losses: shape (p,), descending: the loss that dropping each direction adds.
        left: shape (out, p), columns in that order.
        right: shape (p, in).
        weight: shape (out, in), what is approximated.
        mean: shape (in,), the mean input that a bias makes up for, or None without one.
    """

    losses: FloatArray
    left: FloatArray
    right: FloatArray
    weight: FloatArray
    mean: FloatArray | None

    def loss(self, rank: int) -> float:
        """Expected loss of the best map of this rank: Σ over the directions dropped."""
        return float(self.losses[rank:].sum())

    def factors(self, rank: int) -> Factors:
        """The best map of this rank, its norm split evenly, with the bias shift it needs."""
        left, right = self.left[:, :rank], self.right[:rank]
        a, b = np.linalg.norm(left, axis=0), np.linalg.norm(right, axis=1)
        scale = np.sqrt(np.divide(b, a, out=np.ones_like(a), where=(a > 0) & (b > 0)))
        left, right = left * scale, right / scale[:, None]
        shift = None
        if self.mean is not None:
            shift = self.weight @ self.mean - left @ (right @ self.mean)
        return Factors(left, right, shift)


def decompose(
    weight: NDArray[np.floating], moments: Moments, *, bias: bool, gradients: bool
) -> Decomposition:
    """The best low-rank maps for the layer's own inputs, and for what its outputs are used for.

    With C the inputs' second moment and G the output gradients', the loss of a map A is
    E‖R(W−A)x‖² = tr(R(W−A)C(W−A)ᵀR), R = G^½: the error of the outputs with R = 1, and else the
    quadratic model of the loss with the Kronecker approximation of its curvature (Martens and
    Grosse, 2015). With R W C^½ = U S Vᵀ the optimum is A = R⁻¹ U_r U_rᵀ R W, and its loss Σ s² over
    what is dropped. C is never inverted, however singular; G is raised to a floor first.

    Where the layer has a bias, C is centred and the bias takes (W−A)·E[x], which is optimal.

    Args:
        weight: shape (out, in).
        moments: of that layer.
        bias: whether a bias can make up for the mean.
        gradients: whether to use the moment of the output gradients.

    Raises:
        ValueError: gradients are wanted and were not collected.
    """
    w: FloatArray = weight.astype(np.float64)
    mean = moments.mean if bias else None
    c = moments.second if mean is None else moments.second - np.outer(mean, mean)
    inputs = _root(c, floor=0.0)
    scale = moments.rows / moments.samples  # losses are those of a sample
    if gradients:
        if moments.gradient is None:
            raise ValueError("no output gradients were collected")
        outputs = _root(moments.gradient, floor=GRADIENT_FLOOR)
        seen = outputs @ w
    else:
        outputs, seen = None, w
    b = seen @ inputs
    s = spectrum(b, vectors=True)
    assert s.vectors is not None
    basis = s.vectors[:, ::-1]
    values = np.sqrt(s.eigenvalues[::-1] * s.n)
    if b.shape[0] >= b.shape[1]:  # the basis holds right vectors: U = B V / s
        basis = b @ basis / np.where(values > 0, values, 1.0)
    left = basis if outputs is None else np.asarray(np.linalg.solve(outputs, basis), np.float64)
    return Decomposition(scale * values**2, left, basis.T @ seen, w, mean)


def _root(moment: FloatArray, *, floor: float) -> FloatArray:
    """The symmetric root, with eigenvalues raised to ``floor`` times the largest."""
    values, vectors = np.linalg.eigh(moment)
    least = max(floor * float(values[-1]), np.finfo(np.float64).tiny if floor else 0.0)
    return np.asarray((vectors * np.sqrt(np.maximum(values, least))) @ vectors.T)
