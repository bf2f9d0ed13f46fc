"""The networks of the published experiments."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence
from itertools import pairwise

import torch
from torch import nn


def mlp(
    sizes: Sequence[int], seed: int, *, dropout: float = 0.0, relu_logits: bool = False
) -> nn.Sequential:
    """Return linear layers ``fc1``, ``fc2``, … with ReLUs between them and default weights.

    Args:
        sizes: width of the inputs, of each hidden layer, and of the outputs.
        seed: seed of torch's global random numbers, which are used from here on.
        dropout: share of the hidden values that are dropped in training.
        relu_logits: whether a ReLU follows the last layer too, as in the published notebooks.
    """
    torch.manual_seed(seed)
    modules: OrderedDict[str, nn.Module] = OrderedDict()
    for i, (inputs, outputs) in enumerate(pairwise(sizes), start=1):
        modules[f"fc{i}"] = nn.Linear(inputs, outputs)
        if i < len(sizes) - 1 or relu_logits:
            modules[f"relu{i}"] = nn.ReLU()
        if i < len(sizes) - 1 and dropout:
            modules[f"dropout{i}"] = nn.Dropout(dropout)
    return nn.Sequential(modules)
