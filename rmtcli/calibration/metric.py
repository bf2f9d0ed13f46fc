"""The best low-rank maps of a layer in the metric of its data."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import DTypeLike, NDArray

from rmtcli.arrays import FloatArray
from rmtcli.calibration.measure import Eigh, Outputs, eigenvectors, root_of, second_of
from rmtcli.calibration.moments import Moments
from rmtcli.spectra import Factors, mapped

#: Ridge of the regression on a compressed network's inputs, as a share of their largest variance.
RIDGE = 1e-4


@dataclass(frozen=True, slots=True, eq=False)
class MetricDecomposition:
    """The best low-rank maps of one layer in one metric; every rank is a slice.

    Attributes:
        losses: shape (p,), descending: the loss that dropping each direction adds; for siblings,
            the sum of their losses.
        left: shape (out, p): one column per direction, in the order of ``losses``.
        right: shape (p, in): one row per direction; siblings share the array. A row has the norm
            of the column of ``left`` (for siblings, of all their columns together). In float64, or
            in the type that was asked for.
        mean: shape (p,): the product of ``right`` and the mean input, whose error a bias
            compensates; None without a bias.
        target: shape (out,): the output that the layer without its bias should give for the mean
            input; None without a bias.
    """

    losses: FloatArray
    left: NDArray[np.floating]
    right: NDArray[np.floating]
    mean: FloatArray | None
    target: FloatArray | None

    def loss(self, rank: int) -> float:
        """Return the expected loss of the best map of this rank: Σ over the dropped directions."""
        return float(self.losses[rank:].sum())

    def factors(self, rank: int) -> Factors:
        """Return the best map of this rank as two factors, with the shift that the bias takes."""
        left = np.asarray(self.left[:, :rank], np.float64)
        right = np.asarray(self.right[:rank], np.float64)
        shift = None
        if self.mean is not None and self.target is not None:
            shift = self.target - left @ self.mean[:rank]
        return Factors(left, right, shift)


def decompose(
    weight: NDArray[np.floating],
    moments: Moments,
    *,
    bias: bool,
    gradients: bool,
    eigh: Eigh = np.linalg.eigh,
    dtype: DTypeLike = np.float64,
) -> MetricDecomposition:
    """Return the best low-rank maps of a layer for its own inputs and the use of its outputs.

    Let C be the second moment of the inputs, G that of the output gradients, and R = G^½. The loss
    of a map A is E‖R(W−A)x‖² = tr(R(W−A)C(W−A)ᵀR): the quadratic model of the network's loss with
    the Kronecker approximation of its curvature (Martens and Grosse, 2015). Without gradients,
    R = 1, and the loss is the error of the outputs. With R W C^½ = U S Vᵀ, the optimum is
    A = R⁻¹ U_r U_rᵀ R W, and its loss is Σ s² over the dropped directions. C is never inverted,
    however singular it is; the eigenvalues of G are raised to ``GRADIENT_FLOOR`` first. Of moments
    of z = Wx, (W C Wᵀ)^½ takes the place of W C^½: the two have the same U and S.

    If the layer has a bias, C is centred and the bias takes (W−A)·E[x], which is optimal.

    Args:
        weight: shape (out, in).
        moments: moments of the layer.
        bias: whether the layer has a bias, which compensates the error of the mean.
        gradients: whether to use the moment of the output gradients.
        eigh: computes eigenvectors.
        dtype: type of the right factor where the moments are those of outputs: that of a table has
            the table's size.

    Raises:
        ValueError: gradients are to be used and were not collected.
    """
    options = {"bias": bias, "gradients": gradients}
    return decompose_together([weight], [moments], **options, eigh=eigh, dtype=dtype)[0]


def decompose_together(
    weights: Sequence[NDArray[np.floating]],
    moments: Sequence[Moments],
    *,
    bias: bool,
    gradients: bool,
    eigh: Eigh = np.linalg.eigh,
    dtype: DTypeLike = np.float64,
) -> list[MetricDecomposition]:
    """Return the best low-rank maps of siblings, layers that read one input, with one right factor.

    The maps L_i B have the loss Σᵢ E‖R_i(W_i − L_i B)x‖², which is that of a single map of the
    stacked rows R_i W_i. The optimum is therefore that of :func:`decompose` for the stacked rows,
    with its left factor cut by rows, and the losses compare with those of other layers.

    Args:
        weights: shapes (out_i, in).
        moments: moments of these layers, with the same mean and second moment of the inputs; those
            of the outputs serve a single layer only.
        bias: whether each layer has a bias, which compensates the error of the mean.
        gradients: whether to use the moments of the output gradients.
        eigh: computes eigenvectors.
        dtype: type of the right factor where the moments are those of outputs.

    Returns:
        One decomposition per layer.

    Raises:
        ValueError: gradients are to be used and were not collected.
    """
    first = moments[0]
    outputs = [Outputs.of(m, m.uses / first.uses, gradients=gradients, eigh=eigh) for m in moments]
    second = second_of(first, bias)
    # A table of tokens is not in float64 as a whole: its moments are those of its outputs.
    dense = [] if first.of_outputs else [np.asarray(w, np.float64) for w in weights]
    if first.of_outputs:
        values, left, rows = _of_outputs(weights[0].shape, outputs[0], second, eigh)
        lefts, right, mean = [left], mapped(rows, weights[0], dtype), rows @ first.mean
    else:
        decomposed = _wide if sum(map(len, dense)) <= dense[0].shape[1] else _tall
        values, lefts, right = decomposed(dense, outputs, second, eigh)
        mean = right @ first.mean
    # Balanced: in each direction, all left factors together have the norm of the right one.
    x = np.linalg.norm(np.concatenate(lefts), axis=0)
    y = np.sqrt(np.einsum("ij,ij->i", right, right, dtype=np.float64))  # without a copy of it
    scale = np.sqrt(np.divide(y, x, out=np.ones_like(x), where=(x > 0) & (y > 0)))
    losses = first.uses * values
    right /= scale[:, None]
    shift = mean / scale if bias else None
    targets = [first.mean] if first.of_outputs else [w @ first.mean for w in dense]
    return [
        MetricDecomposition(losses, left * scale, right, shift, target if bias else None)
        for left, target in zip(lefts, targets, strict=True)
    ]


def _of_outputs(
    shape: tuple[int, ...], output: Outputs, second: FloatArray, eigh: Eigh
) -> tuple[FloatArray, FloatArray, FloatArray]:
    """The decomposition from the eigenvectors U of R E[zzᵀ] R, for moments of z = Wx.

    Returns:
        The eigenvalues, descending; the left factor R⁻¹U; and Uᵀ R, which makes the right one of W.
    """
    maps = output.apply(np.eye(shape[0]))
    values, basis = eigenvectors(maps @ second @ maps.T, eigh)
    values, basis = values[: min(shape)], basis[:, : min(shape)]
    return values, output.undo(basis), basis.T @ maps


def _wide(
    dense: Sequence[FloatArray], outputs: Sequence[Outputs], second: FloatArray, eigh: Eigh
) -> tuple[FloatArray, list[FloatArray], FloatArray]:
    """The decomposition from the eigenvectors U of R W C WᵀR: L = R⁻¹U and Uᵀ R W.

    Returns:
        The eigenvalues, descending; each layer's left factor; and the right one.
    """
    maps = np.concatenate([o.apply(w) for o, w in zip(outputs, dense, strict=True)])
    values, basis = eigenvectors(maps @ second @ maps.T, eigh)
    rank = min(maps.shape)
    values, basis = values[:rank], basis[:, :rank]
    parts = np.split(basis, np.cumsum([len(w) for w in dense])[:-1])
    lefts = [o.undo(part) for o, part in zip(outputs, parts, strict=True)]
    return values, lefts, basis.T @ maps


def _tall(
    dense: Sequence[FloatArray], outputs: Sequence[Outputs], second: FloatArray, eigh: Eigh
) -> tuple[FloatArray, list[FloatArray], FloatArray]:
    """The decomposition from the eigenvectors V of C^½ WᵀG W C^½, smaller for tall weights.

    With U = R W C^½ V S⁻¹, it is L = R⁻¹U = W C^½ V S⁻¹ and Uᵀ R W = LᵀG W, without a root of G.

    Returns:
        The eigenvalues, descending; each layer's left factor; and the right one.
    """
    root = root_of(second, floor=0.0, eigh=eigh)
    maps = [w @ root for w in dense]
    weighed = [o.weigh(w) for o, w in zip(outputs, dense, strict=True)]
    gram = sum(m.T @ (x @ root) for m, x in zip(maps, weighed, strict=True))
    values, basis = eigenvectors(np.asarray(gram), eigh)
    basis = basis / np.sqrt(np.where(values > 0, values, 1.0))
    lefts = [m @ basis for m in maps]
    return values, lefts, np.sum([x.T @ y for x, y in zip(lefts, weighed, strict=True)], axis=0)


def redirect(
    weight: NDArray[np.floating],
    moments: Moments,
    *,
    mean: FloatArray,
    cross: FloatArray,
    bias: bool,
) -> MetricDecomposition:
    """Return the best low-rank maps from a compressed network's inputs to the dense outputs.

    The compressed network has inputs x̃ where the dense one has x. The outputs Wx are regressed on
    x̃: the full-rank solution is M = W E[xx̃ᵀ] E[x̃x̃ᵀ]⁻¹, and its truncation in the metric of x̃ is
    the best map of its rank (reduced-rank regression, Izenman, 1975). The inverse has a ridge that
    shrinks M towards W, M = W + W (E[xx̃ᵀ] − E[x̃x̃ᵀ]) (E[x̃x̃ᵀ] + εI)⁻¹, so that M is the dense
    layer's map in directions that no input reaches.

    Args:
        weight: shape (out, in).
        moments: moments of x̃; their output gradients, if any, set the metric.
        mean: shape (in,), E[x].
        cross: shape (in, in), E[x x̃ᵀ], not centred.
        bias: whether the layer has a bias, which compensates the error of the mean.
    """
    w: FloatArray = weight.astype(np.float64)
    both = cross - np.outer(mean, moments.mean) if bias else cross
    own = second_of(moments, bias)
    ridge = RIDGE * float(np.linalg.eigvalsh(own)[-1]) + np.finfo(np.float64).tiny
    change = np.linalg.solve(own + ridge * np.eye(len(own)), (w @ (both - own)).T)
    maps = decompose(w + change.T, moments, bias=bias, gradients=moments.gradient is not None)
    return replace(maps, target=w @ mean) if bias else maps


def metric_losses(
    weight: NDArray[np.floating], moments: Moments, *, bias: bool, gradients: bool
) -> FloatArray:
    """The losses of :func:`decompose` without the maps, which takes a small part of the time.

    With A = R W, they are the eigenvalues of A C Aᵀ, or of C^½ AᵀA C^½ if that is smaller.

    Args:
        weight: shape (out, in).
        moments: moments of the layer's inputs, and of its output gradients if they are used.
        bias: whether the layer has a bias, which compensates the error of the mean.
        gradients: whether to use the moment of the output gradients.

    Returns:
        Shape (min(out, in),), descending.

    Raises:
        ValueError: gradients are to be used and were not collected.
    """
    second = second_of(moments, bias)
    maps = Outputs.of(moments, 1.0, gradients=gradients).apply(weight.astype(np.float64))
    if maps.shape[0] <= maps.shape[1]:
        gram = maps @ second @ maps.T
    else:
        root = root_of(second, floor=0.0)
        gram = root @ (maps.T @ maps) @ root
    return np.asarray(moments.uses * np.maximum(np.linalg.eigvalsh(gram)[::-1], 0.0))


def whitened(
    weight: NDArray[np.floating],
    moments: Moments,
    *,
    bias: bool,
    gradients: bool,
    eigh: Eigh = np.linalg.eigh,
) -> FloatArray:
    """A layer in the metric of :func:`decompose`: R W C^½, of which the losses are the squares.

    Both roots are symmetric, so that noise that is alike in all entries stays so where the inputs
    and the gradients are alike in all directions, and directions of large moments stand out.

    Args:
        weight: shape (out, in).
        moments: moments of the layer's inputs, and of its output gradients if they are used.
        bias: whether the layer has a bias, which compensates the error of the mean.
        gradients: whether to use the moment of the output gradients.
        eigh: computes eigenvectors.

    Returns:
        Shape (out, in).

    Raises:
        ValueError: gradients are to be used and were not collected.
    """
    second = root_of(second_of(moments, bias), floor=0.0, eigh=eigh)
    outputs = Outputs.of(moments, moments.uses, gradients=gradients, eigh=eigh)
    return outputs.apply(weight.astype(np.float64) @ second)


def whole_loss(
    weight: NDArray[np.floating], moments: Moments, *, bias: bool, gradients: bool
) -> float:
    """The loss of dropping a layer: the sum of :func:`metric_losses`, without decomposing it."""
    second = second_of(moments, bias)
    maps = Outputs.of(moments, 1.0, gradients=gradients).apply(weight.astype(np.float64))
    return float(moments.uses * np.einsum("ij,ij->", maps, maps @ second))
