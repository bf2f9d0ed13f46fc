"""The linear layers of a network in training, dense or split in two."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import cast

import numpy as np
import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from rmtcli.arrays import FloatArray
from rmtcli.checkpoint.names import factors_of, member, module_of
from rmtcli.errors import TrainingError
from rmtcli.layers import Selection
from rmtcli.layouts.module import float64_of
from rmtcli.layouts.split import SplitLinear
from rmtcli.spectra import Factors, Spectrum, factorize, spectrum
from rmtcli.training.carry import Heir, carry


@dataclass(frozen=True, slots=True, eq=False)
class Decomposition:
    """Spectrum and best low-rank approximations of one layer's weight.

    Attributes:
        spectrum: all p eigenvalues, without vectors; those that were cut off are 0.
        factors: the best approximation of a rank.
    """

    spectrum: Spectrum
    factors: Callable[[int], Factors]


@dataclass(slots=True, eq=False)
class TrainedLayer:
    """One linear layer, wherever the network holds it.

    Attributes:
        name: the weight's name in the dense network, such as ``fc1.weight``.
        places: every parent module, and the layer's name in it.
        module: ``nn.Linear`` or :class:`~rmtcli.layouts.split.SplitLinear`.
        scale: what the gradients of the factors are multiplied by; 1 of a dense layer.
    """

    name: str
    places: list[tuple[nn.Module, str]]
    module: nn.Linear | SplitLinear
    scale: float = 1.0

    @property
    def shape(self) -> tuple[int, int]:
        """(out, in)."""
        return self.module.out_features, self.module.in_features

    @property
    def rank(self) -> int:
        """Inner width of a split layer; p of a dense one."""
        if isinstance(self.module, SplitLinear):
            return self.module.left.in_features
        return min(self.shape)

    @property
    def split(self) -> bool:
        """Whether it is two linear maps now."""
        return isinstance(self.module, SplitLinear)

    @property
    def weights(self) -> list[nn.Parameter]:
        """The weight, or the right and the left factor."""
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
        return all(parent._modules.get(key) is self.module for parent, key in self.places)

    def decompose(self) -> Decomposition:
        """Singular values and vectors; of a split layer, through the small core of its product.

        Raises:
            TrainingError: values that are not finite, or nothing but zeros.
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
            found = spectrum(weight, vectors=True)
            bare = Spectrum(found.eigenvalues, found.n, found.p)
            return Decomposition(bare, lambda rank: factorize(weight, found, rank))
        return _product(*arrays)

    @torch.no_grad()
    def replace(self, factors: Factors, optimizer: Optimizer) -> None:
        """Stand as two linear maps from now on; the optimizer's state goes along.

        The gradients of the new factors A'·B' are linear in those of what they come from: with a
        weight's G, they are G·B'ᵀ and A'ᵀ·G; with factors A' = A·T and B' = Q·B, they are ∂A·Qᵀ and
        Tᵀ·∂B, where Q = S⁻¹A'ᵀA and T = B·B'ᵀS⁻¹ (S the singular values).

        A step η of gradient descent on the factors moves their product by η(G·BᵀB + AAᵀ·G), up to
        2s₁ times as far as it would move the weight. The gradients of the factors are therefore
        multiplied by 1/(2s₁), or a learning rate that suited the dense layer would be too large.
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
        self._stand(split_of(self.module, a, b))
        self.scale_gradients(scale)

    @torch.no_grad()
    def overwrite(self, weight: FloatArray) -> None:
        """Change the values of a dense layer."""
        (own,) = self.weights
        own.copy_(_tensor(weight, own))

    def split_empty(self, rank: int, optimizer: Optimizer | None = None) -> None:
        """Stand as two maps of zeros, to be loaded into; an optimizer forgets the weight."""
        old = self.weights[0]
        out, inputs = self.shape
        b, a = (nn.Parameter(old.new_zeros(shape)) for shape in ((rank, inputs), (out, rank)))
        if optimizer is not None:
            optimizer.state.pop(old, None)
            carry(optimizer, old, [Heir(b), Heir(a)])
        self._stand(split_of(self.module, a, b))

    def scale_gradients(self, scale: float) -> None:
        """Multiply what the factors' gradients are from now on; once for each pair of factors."""
        self.scale = scale
        for weight in self.weights:
            weight.register_hook(lambda gradient: scale * gradient)  # type: ignore[no-untyped-call]

    def _stand(self, module: SplitLinear) -> None:
        for parent, key in self.places:
            setattr(parent, key, module)
        self.module, self.scale = module, 1.0


def split_of(module: nn.Linear | SplitLinear, a: nn.Parameter, b: nn.Parameter) -> SplitLinear:
    """Two linear maps with these weights in place of a layer, whose bias they share."""
    # On the meta device no weights are drawn: torch's random numbers stay what they would be.
    blank = nn.Linear(module.in_features, module.out_features, device="meta", dtype=a.dtype)
    made = SplitLinear(blank, a.shape[1], bias=module.bias is not None)
    made.right.weight, made.left.weight = b, a
    if module.bias is not None:
        made.left.bias = cast(nn.Parameter, module.bias)
    return made.train(module.training)


@torch.no_grad()
def adopt(model: nn.Module, state: Mapping[str, Tensor], prefix: str = "") -> None:
    """Give linear layers the shapes that a state dict has for them, so that it can be loaded.

    Args:
        model: the network, whose layers are replaced in place.
        state: a state dict of the network after it was pruned.
        prefix: what the network's names begin with in it.
    """
    for layer in _all_layers(model):
        path = f"{prefix}{module_of(layer.name)}"
        right, _, _ = factors_of(path)
        if right in state and not layer.split:
            layer.split_empty(len(state[right]))
        for name, own in layer.module.named_parameters():
            shape = getattr(state.get(member(path, name)), "shape", own.shape)
            if shape != own.shape:  # a hidden layer that got narrower
                setattr(layer.module, name, nn.Parameter(own.new_zeros(shape)))
        if not layer.split:
            layer.module.out_features, layer.module.in_features = layer.module.weight.shape


def layers_in(model: nn.Module, selection: Selection) -> tuple[list[TrainedLayer], dict[str, str]]:
    """Every linear layer that may be pruned, in the network's order, and why others may not.

    The last linear layer and those with few outputs are output heads.
    """
    layers = _all_layers(model)
    users = Counter(id(p) for owner in model.modules() for p in owner._parameters.values())
    kept, others = [], {}
    for layer in layers:
        if selection.leaves_out(layer.name):
            others[layer.name] = "left out by include or exclude"
        elif layer.name in selection.include:
            kept.append(layer)
        elif layer is layers[-1] or layer.shape[0] < selection.min_side:
            others[layer.name] = "output head"
        elif any(users[id(weight)] > 1 for weight in layer.weights):
            others[layer.name] = "tied to another module"
        elif not all(weight.requires_grad for weight in layer.weights):
            others[layer.name] = "frozen"
        else:
            kept.append(layer)
    return kept, others


def classes_of(model: nn.Module, selection: Selection) -> int:
    """Outputs of the last linear layer, where they are few enough to be classes; else 1."""
    last = [module for module in model.modules() if isinstance(module, nn.Linear)][-1]
    return last.out_features if last.out_features < selection.min_side else 1


def _all_layers(model: nn.Module) -> list[TrainedLayer]:
    found: dict[int, TrainedLayer] = {}
    for parent, key, module, path in _linears(model):
        if id(module) in found:
            found[id(module)].places.append((parent, key))
        else:
            found[id(module)] = TrainedLayer(member(path, "weight"), [(parent, key)], module)
    return list(found.values())


def _linears(model: nn.Module) -> Iterator[tuple[nn.Module, str, nn.Linear | SplitLinear, str]]:
    """(parent, key, module, path) of linear layers, those inside a split layer left out."""
    inside = {id(part) for m in model.modules() if isinstance(m, SplitLinear) for part in m}
    for path, module in model.named_modules(remove_duplicate=False):
        if path and isinstance(module, nn.Linear | SplitLinear) and id(module) not in inside:
            yield model.get_submodule(module_of(path)), path.rpartition(".")[2], module, path


def _product(right: FloatArray, left: FloatArray) -> Decomposition:
    """That of left · right, from the r × r core between the orthonormal bases of both."""
    (a, core_a), (b, core_b) = np.linalg.qr(left), np.linalg.qr(right.T)
    core = core_a @ core_b.T
    inner = spectrum(core, vectors=True)
    n, p = max(len(left), right.shape[1]), min(len(left), right.shape[1])
    eigenvalues = np.zeros(p)
    eigenvalues[p - inner.p :] = inner.eigenvalues * inner.n / n

    def factors(rank: int) -> Factors:
        small = factorize(core, inner, rank)
        return Factors(a @ small.left, small.right @ b.T)

    return Decomposition(Spectrum(eigenvalues, n, p), factors)


def _parameter(linear: nn.Linear) -> nn.Parameter:
    return cast(nn.Parameter, linear.weight)


def _tensor(values: FloatArray, like: Tensor) -> Tensor:
    return torch.from_numpy(np.ascontiguousarray(values)).to(like.device, like.dtype)
