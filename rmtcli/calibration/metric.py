"""A weight seen through what its layer does: truncation in the metric of the data."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from rmtcli.arrays import FloatArray
from rmtcli.calibration.moments import Moments
from rmtcli.spectra import Factors, spectrum

#: Eigenvalues of the gradients' moment are raised to this share of the largest, so that undoing
#: its root multiplies rounding by a hundred at most. Directions that no gradient reached would
#: otherwise be free to change without limit.
GRADIENT_FLOOR = 1e-4
#: Ridge of the regression on a compressed network's inputs, as a share of their largest variance.
RIDGE = 1e-4


@dataclass(frozen=True, slots=True, eq=False)
class Decomposition:
    """Every best low-rank map of one layer in one metric; a rank is a slice.

    Attributes:
        losses: shape (p,), descending: the loss that dropping each direction adds. That of siblings
            is the loss of all of them.
        left: shape (out, p), columns in that order.
        right: shape (p, in); one array for all siblings. In each direction as large as ``left`` (of
            siblings, as all of them together).
        mean: shape (in,), the mean input that a bias makes up for, or None without one.
        target: shape (out,), what the layer without its bias gives for the mean, or None.
    """

    losses: FloatArray
    left: FloatArray
    right: FloatArray
    mean: FloatArray | None
    target: FloatArray | None

    def loss(self, rank: int) -> float:
        """Expected loss of the best map of this rank: Σ over the directions dropped."""
        return float(self.losses[rank:].sum())

    def factors(self, rank: int) -> Factors:
        """The best map of this rank, with the bias shift it needs."""
        left, right = self.left[:, :rank], self.right[:rank]
        shift = None
        if self.mean is not None and self.target is not None:
            shift = self.target - left @ (right @ self.mean)
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
    return decompose_together([weight], [moments], bias=bias, gradients=gradients)[0]


def decompose_together(
    weights: Sequence[NDArray[np.floating]],
    moments: Sequence[Moments],
    *,
    bias: bool,
    gradients: bool,
) -> list[Decomposition]:
    """The best low-rank maps of siblings, layers that read one input, with one right factor.

    Maps L_i B lose Σᵢ E‖R_i(W_i − L_i B)x‖²: as much as a single map of the stacked rows R_i W_i.
    So the optimum is that of :func:`decompose`, its left factor cut by rows, and the losses stand
    on the scale of other layers'.

    Args:
        weights: shapes (out_i, in).
        moments: of these layers, with the same mean and second moment of the inputs.
        bias: whether each of them has a bias that can make up for the mean.
        gradients: whether to use the moments of the output gradients.

    Returns:
        One a layer.

    Raises:
        ValueError: gradients are wanted and were not collected.
    """
    first = moments[0]
    inputs = _root(first.covariance if bias else first.second, floor=0.0)
    mean = first.mean if bias else None
    dense: list[FloatArray] = [weight.astype(np.float64) for weight in weights]
    outputs = [_Outputs.of(m, m.uses / first.uses, gradients=gradients) for m in moments]
    seen = np.concatenate([o.apply(w) for o, w in zip(outputs, dense, strict=True)])
    b = seen @ inputs
    s = spectrum(b, vectors=True)
    basis = s.leading(s.p)
    values = np.sqrt(s.eigenvalues[::-1] * s.n)
    if b.shape[0] >= b.shape[1]:  # the basis holds right vectors: U = B V / s
        basis = b @ basis / np.where(values > 0, values, 1.0)
    parts = np.split(basis, np.cumsum([len(w) for w in dense])[:-1])
    lefts = [o.undo(part) for o, part in zip(outputs, parts, strict=True)]
    right = basis.T @ seen
    # Balanced: in each direction, all left factors together are as large as the right one.
    x, y = np.linalg.norm(np.concatenate(lefts), axis=0), np.linalg.norm(right, axis=1)
    scale = np.sqrt(np.divide(y, x, out=np.ones_like(x), where=(x > 0) & (y > 0)))
    losses, right = first.uses * values**2, right / scale[:, None]
    targets = [None if mean is None else w @ mean for w in dense]
    return [
        Decomposition(losses, left * scale, right, mean, target)
        for left, target in zip(lefts, targets, strict=True)
    ]


def redirect(
    weight: NDArray[np.floating],
    moments: Moments,
    *,
    mean: FloatArray,
    cross: FloatArray,
    bias: bool,
) -> Decomposition:
    """The best low-rank maps from what a compressed network gives to what the dense layer gave.

    With inputs x̃ where the dense network has x, the outputs Wx are regressed on x̃: the full-rank
    answer is M = W E[xx̃ᵀ] E[x̃x̃ᵀ]⁻¹, and its truncation in the metric of x̃ is the best of its rank
    (reduced-rank regression, Izenman, 1975). The inverse carries a ridge, and what the ridge holds
    back goes to W itself: M = W + W (E[xx̃ᵀ] − E[x̃x̃ᵀ]) (E[x̃x̃ᵀ] + εI)⁻¹, so that a direction that
    no input reaches stays the dense layer's.

    Args:
        weight: shape (out, in).
        moments: of x̃; the output gradients among them, if any, set the metric.
        mean: shape (in,), E[x].
        cross: shape (in, in), E[x x̃ᵀ], not centred.
        bias: whether a bias can make up for the means.
    """
    w: FloatArray = weight.astype(np.float64)
    both = cross - np.outer(mean, moments.mean) if bias else cross
    own = moments.covariance if bias else moments.second
    ridge = RIDGE * float(np.linalg.eigvalsh(own)[-1]) + np.finfo(np.float64).tiny
    solved = np.linalg.solve(own + ridge * np.eye(len(own)), (w @ (both - own)).T)
    found = decompose(w + solved.T, moments, bias=bias, gradients=moments.gradient is not None)
    return replace(found, target=w @ mean) if bias else found


@dataclass(frozen=True, slots=True, eq=False)
class _Outputs:
    """What an error of one layer's outputs is measured by: √weight · root, or √weight alone."""

    weight: float
    root: FloatArray | None

    @staticmethod
    def of(moments: Moments, weight: float, *, gradients: bool) -> _Outputs:
        """That of a layer, which counts ``weight`` times as much as the first of its siblings."""
        if not gradients:
            return _Outputs(weight, None)
        if moments.gradient is None:
            raise ValueError("no output gradients were collected")
        return _Outputs(weight, _root(moments.gradient, floor=GRADIENT_FLOOR))

    def apply(self, rows: FloatArray) -> FloatArray:
        """Errors, shape (out, any), as they count."""
        seen = rows if self.root is None else self.root @ rows
        return np.asarray(self.weight**0.5 * seen)

    def undo(self, rows: FloatArray) -> FloatArray:
        """The reverse."""
        found = rows if self.root is None else np.linalg.solve(self.root, rows)
        return np.asarray(found / self.weight**0.5)


def _root(moment: FloatArray, *, floor: float) -> FloatArray:
    """The symmetric root, with eigenvalues raised to ``floor`` times the largest."""
    values, vectors = np.linalg.eigh(moment)
    least = max(floor * float(values[-1]), np.finfo(np.float64).tiny if floor else 0.0)
    return np.asarray((vectors * np.sqrt(np.maximum(values, least))) @ vectors.T)
