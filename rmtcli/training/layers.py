"""The linear layers of a network in training, dense or split into two factors."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import cast

import numpy as np
import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from rmtcli.arrays import FloatArray
from rmtcli.errors import TrainingError
from rmtcli.layouts.module import float64_of
from rmtcli.layouts.split import SplitLinear
from rmtcli.spectra import Factors, Spectrum, factorize, spectrum
from rmtcli.training.carry import Heir, carry


@dataclass(frozen=True, slots=True, eq=False)
class Decomposition:
    """Spectrum and best low-rank approximations of one layer's weight.

    Attributes:
        spectrum: all p eigenvalues, without vectors; those that were cut off are 0.
        factors: function that gives the best approximation of a rank.
    """

    spectrum: Spectrum
    factors: Callable[[int], Factors]


@dataclass(slots=True, eq=False)
class TrainedLayer:
    """One linear layer, which several modules of the network may hold.

    Attributes:
        name: the weight's name in the dense network, such as ``fc1.weight``.
        parents: every module that holds the layer, with the layer's name in it.
        module: ``nn.Linear`` or :class:`~rmtcli.layouts.split.SplitLinear`.
        scale: number that the gradients of the factors are multiplied by; 1 for a dense layer.
    """

    name: str
    parents: list[tuple[nn.Module, str]]
    module: nn.Linear | SplitLinear
    scale: float = 1.0

    @property
    def shape(self) -> tuple[int, int]:
        """(out, in)."""
        return self.module.out_features, self.module.in_features

    @property
    def rank(self) -> int:
        """Number of inner values of a split layer; p for a dense one."""
        if isinstance(self.module, SplitLinear):
            return self.module.left.in_features
        return min(self.shape)

    @property
    def split(self) -> bool:
        """Whether the layer is split into two linear maps."""
        return isinstance(self.module, SplitLinear)

    @property
    def weights(self) -> list[nn.Parameter]:
        """The weight, or the right factor and the left factor."""
        if isinstance(self.module, SplitLinear):
            return [_parameter(self.module.right), _parameter(self.module.left)]
        return [_parameter(self.module)]

    @property
    def values(self) -> FloatArray:
        """The weight, or the product of its factors, shape (out, in)."""
        return float64_of(self.module.weight)

    @property
    def in_place(self) -> bool:
        """Whether the network still holds the module."""
        return all(parent._modules.get(key) is self.module for parent, key in self.parents)

    def decompose(self) -> Decomposition:
        """Decompose the weight; a split layer, by the small core of the product of its factors.

        Raises:
            TrainingError: the weight has values that are not finite, or only zeros.
        """
        arrays = [float64_of(weight) for weight in self.weights]
        if not all(np.isfinite(array).all() for array in arrays):
            raise TrainingError(
                f"{self.name} holds values that are NaN or infinite: training has diverged: lower "
                "the learning rate, or clip gradients"
            )
        if not all(array.any() for array in arrays):
            raise TrainingError(
                f"{self.name} is zero everywhere: the layer has vanished: lower the penalties, or "
                "leave it out"
            )
        if not self.split:
            (weight,) = arrays
            whole = spectrum(weight, vectors=True)
            bare = Spectrum(whole.eigenvalues, whole.n, whole.p)
            return Decomposition(bare, lambda rank: factorize(weight, whole, rank))
        return _product(*arrays)

    @torch.no_grad()
    def replace(self, factors: Factors, optimizer: Optimizer) -> None:
        """Replace the layer by two linear maps, and carry the optimizer's state over.

        The gradients of the new factors A'·B' are linear in the old gradients. If the layer was
        dense and its weight has the gradient G, they are G·B'ᵀ and A'ᵀ·G. If it was split into A
        and B, so that A' = A·T and B' = Q·B, they are ∂A·Qᵀ and Tᵀ·∂B, where Q = S⁻¹A'ᵀA and
        T = B·B'ᵀS⁻¹ with the singular values S.

        A step η of gradient descent on the factors moves their product by η(G·BᵀB + AAᵀ·G), up to
        2s₁ times as far as it would move the weight. The gradients of the factors are therefore
        multiplied by 1/(2s₁); otherwise a learning rate that suits the dense layer would be too
        large.

        Args:
            factors: the new factors.
            optimizer: optimizer of the layer's parameters.
        """
        left, right = (_tensor(f, self.weights[0]) for f in (factors.left, factors.right))
        a, b = nn.Parameter(left), nn.Parameter(right)
        values = (factors.left**2).sum(0)
        scale = 0.5 / float(values.max())
        change = scale / self.scale
        if self.split:
            old_b, old_a = self.weights
            q = _tensor((factors.left / values).T @ float64_of(old_a), left)
            t = _tensor(float64_of(old_b) @ (factors.right.T / values), left)
            carry(optimizer, old_b, [Heir(b, left=change * t.T)])
            carry(optimizer, old_a, [Heir(a, right=change * q.T)])
        else:
            heirs = [Heir(b, left=change * left.T), Heir(a, right=change * right.T)]
            carry(optimizer, self.weights[0], heirs)
        self._put_into_network(split_of(self.module, a, b))
        self.scale_gradients(scale)

    @torch.no_grad()
    def overwrite(self, weight: FloatArray) -> None:
        """Replace the values of a dense layer, shape (out, in)."""
        (own,) = self.weights
        own.copy_(_tensor(weight, own))

    def split_empty(self, rank: int, optimizer: Optimizer | None = None) -> None:
        """Split the layer into two maps of zeros, so that a state dict can be loaded.

        Args:
            rank: number of inner values.
            optimizer: optimizer of the layer, which drops its state of the weight; None for none.
        """
        old = self.weights[0]
        out, inputs = self.shape
        b, a = (nn.Parameter(old.new_zeros(shape)) for shape in ((rank, inputs), (out, rank)))
        if optimizer is not None:
            optimizer.state.pop(old, None)
            carry(optimizer, old, [Heir(b), Heir(a)])
        self._put_into_network(split_of(self.module, a, b))

    def scale_gradients(self, scale: float) -> None:
        """Multiply all further gradients of the factors; call it once per pair of factors."""
        self.scale = scale
        for weight in self.weights:
            weight.register_hook(lambda gradient: scale * gradient)  # type: ignore[no-untyped-call]

    def _put_into_network(self, module: SplitLinear) -> None:
        """Replace the module in every parent."""
        for parent, key in self.parents:
            setattr(parent, key, module)
        self.module, self.scale = module, 1.0


def split_of(module: nn.Linear | SplitLinear, a: nn.Parameter, b: nn.Parameter) -> SplitLinear:
    """Return two linear maps with the weights ``b``, then ``a``, and the bias of a layer.

    Args:
        module: the layer that they replace.
        a: left factor, shape (out, rank).
        b: right factor, shape (rank, in).
    """
    # On the meta device no weights are drawn, so that torch's random numbers are not affected.
    blank = nn.Linear(module.in_features, module.out_features, device="meta", dtype=a.dtype)
    split = SplitLinear(blank, a.shape[1], bias=module.bias is not None)
    split.right.weight, split.left.weight = b, a
    if module.bias is not None:
        split.left.bias = cast(nn.Parameter, module.bias)
    return split.train(module.training)


def _product(right: FloatArray, left: FloatArray) -> Decomposition:
    """Decompose left · right by the r × r core between orthonormal bases of both."""
    (a, core_a), (b, core_b) = np.linalg.qr(left), np.linalg.qr(right.T)
    core = core_a @ core_b.T
    inner = spectrum(core, vectors=True)
    n, p = max(len(left), right.shape[1]), min(len(left), right.shape[1])
    eigenvalues = np.zeros(p)
    eigenvalues[p - inner.p :] = inner.eigenvalues * inner.n / n

    def factors(rank: int) -> Factors:
        """Return the best approximation of the product, of this rank."""
        small = factorize(core, inner, rank)
        return Factors(a @ small.left, small.right @ b.T)

    return Decomposition(Spectrum(eigenvalues, n, p), factors)


def _parameter(linear: nn.Linear) -> nn.Parameter:
    """Return the weight with its type, which torch declares as Tensor."""
    return cast(nn.Parameter, linear.weight)


def _tensor(values: FloatArray, like: Tensor) -> Tensor:
    """Return the values as a tensor with the device and type of another one."""
    return torch.from_numpy(np.ascontiguousarray(values)).to(like.device, like.dtype)
