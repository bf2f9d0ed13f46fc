"""Certify samples whose class a change of the weights cannot have changed."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from rmtcli.computing.steps import tracked
from rmtcli.evaluation.chain import Chain
from rmtcli.evaluation.comparison import Certificate
from rmtcli.layouts.pivoted_module import is_linear

#: Lipschitz constants of the activations. Those of GELU and SiLU are the maxima of their
#: derivatives, rounded up.
LIPSCHITZ: dict[type[nn.Module], float] = {
    nn.ReLU: 1.0,
    nn.GELU: 1.13,
    nn.SiLU: 1.1,
    nn.Tanh: 1.0,
    nn.Sigmoid: 0.25,
    nn.Identity: 1.0,
}
#: Modules that do nothing in evaluation mode.
PASSIVE = (nn.Identity, nn.Dropout)
#: Samples per pass.
BATCH = 1024


def certifiable(model: nn.Module) -> bool:
    """Whether a network is a chain of linear layers and known activations."""
    return _stages(model) is not None


@torch.no_grad()
def certified(
    dense: nn.Module, pruned: nn.Module, inputs: NDArray[np.floating]
) -> Certificate | None:
    """Shares of the samples whose margin exceeds the largest possible effect of the change.

    Let x be a layer's input in the dense network, and r a bound on its distance from the same
    layer's input in the pruned network. Then r' = L (‖A‖ r + ‖(W − A)x + b − b'‖) is a bound for
    the next layer, with weights W and A and biases b and b' in the dense and pruned network, and
    L the Lipschitz constant of the activation. Class i is certain to stay if
    z_i − z_j − (e_i − e_j) > ‖a_i − a_j‖ r for every other class j, where z are the dense class
    scores, e is the last layer's own change, and a_i are the rows of its pruned weight. Norms
    multiply, so the bound is loose in deep networks: a sample that it does not cover need not have
    changed. The second share uses for r the distance by which the last hidden layer did move.

    Args:
        dense: the dense network, in evaluation mode.
        pruned: the pruned network, in evaluation mode.
        inputs: shape (samples, …).

    Returns:
        The shares; None if a network is not a chain of linear layers and known activations, or
        the two have hidden layers of different widths.
    """
    before, after = _stages(dense), _stages(pruned)
    if not before or not after or len(before) != len(after) or len(inputs) == 0:
        return None
    if any(a.weight.shape != b.weight.shape for a, b in zip(before, after, strict=True)):
        return None
    norms = [float(torch.linalg.matrix_norm(stage.weight, 2)) for stage in after]
    certain = np.zeros(2)
    for start in tracked(range(0, len(inputs), BATCH), "certifying"):
        x = torch.from_numpy(np.array(inputs[start : start + BATCH])).double().flatten(1)
        x = y = x.to(before[0].weight.device)
        radius = torch.zeros(len(x), dtype=torch.float64, device=x.device)
        for old, new, norm in zip(before[:-1], after[:-1], norms, strict=False):
            z = old(x)
            own = (z - new(x)).norm(dim=1)
            radius = LIPSCHITZ[type(old.activation)] * (norm * radius + own)
            x, y = old.activation(z), new.activation(new(y))
        for i, bound in enumerate((radius, (x - y).norm(dim=1))):
            certain[i] += int(_keeps(before[-1](x), after[-1](x), after[-1].weight, bound).sum())
    propagated, hidden = 100 * certain / len(inputs)
    return Certificate(float(propagated), float(hidden))


def _keeps(z: Tensor, kept: Tensor, weight: Tensor, radius: Tensor) -> Tensor:
    """Which samples are certain to keep their class, shape (samples,).

    Args:
        z: shape (samples, classes), the dense class scores.
        kept: shape (samples, classes), z − e: the pruned last layer applied to the dense network's
            last hidden layer.
        weight: shape (classes, in), the pruned last layer's weight.
        radius: shape (samples,), bound on the distance between the two last hidden layers.
    """
    rows, winner = torch.arange(len(z), device=z.device), z.argmax(1)
    lead = kept[rows, winner, None] - kept
    lead[rows, winner] = torch.inf
    spread = torch.cdist(weight, weight)[winner] * radius[:, None]
    return (lead > spread).all(1)


@dataclass(frozen=True, slots=True, eq=False)
class _Stage:
    """A linear layer in float64, and the activation after it."""

    weight: Tensor
    bias: Tensor
    activation: nn.Module

    def __call__(self, x: Tensor) -> Tensor:
        return x @ self.weight.T + self.bias


def _stages(model: nn.Module) -> list[_Stage] | None:
    """The linear layers and activations of a network; None if it has any other module."""
    modules = _flat(model)
    if modules is None:
        return None
    stages: list[_Stage] = []
    for module in modules:
        if is_linear(module):
            weight = module.weight.detach().double()
            bias = weight.new_zeros(len(weight)) if module.bias is None else module.bias.double()
            stages.append(_Stage(weight, bias, nn.Identity()))
        elif type(module) in PASSIVE or (type(module) is nn.Flatten and not stages):
            continue
        elif type(module) in LIPSCHITZ and stages and type(stages[-1].activation) is nn.Identity:
            stages[-1] = _Stage(stages[-1].weight, stages[-1].bias, module)
        else:
            return None
    last = stages[-1].activation if stages else None
    return stages if type(last) is nn.Identity else None


def _flat(model: nn.Module) -> list[nn.Module] | None:
    """The modules of a sequential network, in order; None for any other network."""
    if isinstance(model, Chain):
        between = [m for name in model.order for m in (model.get_submodule(name), model.activation)]
        return between[:-1]
    if is_linear(model) or type(model) in {
        *LIPSCHITZ,
        *PASSIVE,
        nn.Flatten,
    }:
        return [model]
    if type(model) is not nn.Sequential:
        return None
    modules: list[nn.Module] = []
    for child in model:
        inner = _flat(child)
        if inner is None:
            return None
        modules += inner
    return modules
