"""A factor absorbed into the next layer, so that the hidden layer between them gets narrower.

After Paul and Nelson (2023). W = U·S·Vᵀ becomes S_r·V_rᵀ, which gives r values instead of its
outputs; the next layer reads them through U_r. What stands between the two is not linear, so
this changes the network's function: training goes on and makes up for it.
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
    """For each layer, the one that reads its outputs.

    It is the next linear layer of the same ``nn.Sequential``, with nothing between that has
    parameters or buffers.

    Raises:
        UsageError: no layer has one.
    """
    after: dict[int, nn.Linear] = {}
    for container in model.modules():
        if type(container) is not nn.Sequential:
            continue
        parts = [m for m in container if isinstance(m, nn.Linear) or any(True for _ in _held(m))]
        after |= {
            id(a): b
            for a, b in pairwise(parts)
            if isinstance(a, nn.Linear) and isinstance(b, nn.Linear)
        }
    found = {layer.name: after[id(layer.module)] for layer in layers if id(layer.module) in after}
    if not found:
        raise UsageError(
            "action absorb needs linear layers that follow one another in an nn.Sequential, with "
            "nothing between them that has parameters"
        )
    return found


@torch.no_grad()
def absorb(
    layer: TrainedLayer, follower: nn.Linear, factors: Factors, optimizer: Optimizer
) -> None:
    """Make a layer as narrow as the rank of its factors; the next one takes over the rest.

    The gradients of the new weights are those of the old ones, read through U_r.
    """
    module = cast(nn.Linear, layer.module)
    norms = np.linalg.norm(factors.left, axis=0)  # √S: the factors share the singular values
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
    """The same with zeros, to be loaded into."""
    out, inputs = layer.shape
    if width < out:
        rank = Factors(np.eye(out, width), np.zeros((width, inputs)))
        absorb(layer, follower, rank, optimizer)


def _held(module: nn.Module) -> list[torch.Tensor]:
    return [*module.parameters(), *module.buffers()]
