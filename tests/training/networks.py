"""Small networks and a task that they learn in a second."""

from __future__ import annotations

from collections import OrderedDict
from itertools import pairwise

import torch
from torch import Tensor, nn


def network(*sizes: int, seed: int = 0) -> nn.Sequential:
    """Linear layers ``fc1``, ``fc2``, … with a ReLU between them."""
    torch.manual_seed(seed)
    parts: OrderedDict[str, nn.Module] = OrderedDict()
    for i, (inputs, outputs) in enumerate(pairwise(sizes), start=1):
        parts[f"fc{i}"] = nn.Linear(inputs, outputs)
        if i < len(sizes) - 1:
            parts[f"relu{i}"] = nn.ReLU()
    return nn.Sequential(parts)


def task(count: int = 512, inputs: int = 48, classes: int = 4) -> tuple[Tensor, Tensor]:
    """Gaussian inputs, and which of some directions each lies along most."""
    generator = torch.Generator().manual_seed(1)
    x = torch.randn(count, inputs, generator=generator)
    directions = torch.randn(inputs, classes, generator=generator)
    return x, (x @ directions).argmax(1)


def epoch(model: nn.Module, optimizer: torch.optim.Optimizer, x: Tensor, y: Tensor) -> float:
    """One pass in batches of 64; the last batch's loss."""
    loss = torch.zeros(())
    for rows in torch.randperm(len(x)).split(64):
        optimizer.zero_grad()
        loss = nn.functional.cross_entropy(model(x[rows]), y[rows])
        loss.backward()
        optimizer.step()
    return float(loss.detach())
