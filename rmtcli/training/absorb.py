"""Absorbing a factor into the next layer, which makes the hidden layer between them narrower.

The method is that of Paul and Nelson (2023). The weight W = U·S·Vᵀ is replaced by S_r·V_rᵀ, which
gives r values, and the next layer's weight is multiplied by U_r. The function between the two
layers is not linear, so that the network's outputs change; further training compensates for it.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import cast

import numpy as np
import torch
from torch import nn
from torch.optim import Optimizer

from rmtcli.errors import UsageError
from rmtcli.spectra import Factors
from rmtcli.training.carry import Heir, carry
from rmtcli.training.layers import TrainedLayer


def followers(model: nn.Module, layers: Sequence[TrainedLayer]) -> dict[str, nn.Linear]:
    """Return, for each layer that has one, the linear layer that reads its outputs.

    It is the next linear layer in the same ``nn.Sequential``, provided that nothing between the two
    has parameters or buffers.

    Returns:
        The following modules by the name of the layer.

    Raises:
        UsageError: no layer has a follower.
    """
    after: dict[int, nn.Linear] = {}
    for container in model.modules():
        if type(container) is not nn.Sequential:
            continue
        parts = [m for m in container if isinstance(m, nn.Linear) or any(True for _ in _tensors(m))]
        after |= {
            id(a): b
            for a, b in pairwise(parts)
            if isinstance(a, nn.Linear) and isinstance(b, nn.Linear)
        }
    pairs = {layer.name: after[id(layer.module)] for layer in layers if id(layer.module) in after}
    if not pairs:
        raise UsageError(
            "action absorb needs linear layers that follow one another in an nn.Sequential, with "
            "nothing between them that has parameters"
        )
    return pairs


@torch.no_grad()
def absorb(
    layer: TrainedLayer, follower: nn.Linear, factors: Factors, optimizer: Optimizer
) -> None:
    """Make a layer as narrow as the rank of its factors, and let the next layer absorb U_r.

    The gradients of the new weights are the old ones, multiplied by U_r or its transpose.

    Args:
        layer: the layer to make narrower.
        follower: the layer that reads its outputs.
        factors: factors of the layer's weight.
        optimizer: optimizer of both layers, whose state is carried over.
    """
    module = cast(nn.Linear, layer.module)
    norms = np.linalg.norm(factors.left, axis=0)  # √S, since both factors have √S
    basis = torch.from_numpy(factors.left / norms).to(module.weight)
    narrow = torch.from_numpy(factors.right * norms[:, None]).to(module.weight)
    replacements = [
        (module, "weight", narrow, {"left": basis.T}),
        (follower, "weight", follower.weight @ basis, {"right": basis}),
    ]
    if module.bias is not None:
        replacements.append((module, "bias", basis.T @ module.bias, {"left": basis.T}))
    for owner, name, values, sides in replacements:
        heir = nn.Parameter(values)
        carry(optimizer, owner.get_parameter(name), [Heir(heir, **sides)])
        setattr(owner, name, heir)
    module.out_features = follower.in_features = basis.shape[1]


def narrow_empty(
    layer: TrainedLayer, follower: nn.Linear, width: int, optimizer: Optimizer
) -> None:
    """Make a layer narrower, with zeros as weights, so that a state dict can be loaded.

    Args:
        layer: the layer to make narrower.
        follower: the layer that reads its outputs.
        width: number of outputs to leave; a layer that has no more is left as it is.
        optimizer: optimizer of both layers.
    """
    out, inputs = layer.shape
    if width < out:
        rank = Factors(np.eye(out, width), np.zeros((width, inputs)))
        absorb(layer, follower, rank, optimizer)


def _tensors(module: nn.Module) -> list[torch.Tensor]:
    """Return the parameters and buffers of a module."""
    return [*module.parameters(), *module.buffers()]
