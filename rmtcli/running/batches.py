"""Batches of samples for training, in random order."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from numpy.typing import NDArray
from torch import Tensor

from rmtcli.evaluation.text import MASK

#: Samples per step; of texts, as many as have so many tokens together.
BATCH, TOKENS = 128, 1_024
#: Number of batches of text whose samples are sorted by length together.
_SORTED_BATCHES = 16


def step_size(inputs: NDArray[Any], batch: int) -> int:
    """Number of samples per step; a step of few tokens takes nearly as long as one of many.

    Args:
        inputs: shape (samples, …).
        batch: samples per forward pass; backward passes take more memory.
    """
    if inputs.dtype.kind == "f" or inputs.ndim != 3:
        return min(BATCH, max(1, batch // 2))
    return min(BATCH, max(1, round(TOKENS / float(inputs[:, MASK].sum(1).mean()))))


def endless(inputs: NDArray[Any], batch: int, generator: torch.Generator) -> Iterator[Tensor]:
    """The rows of one random batch after another, without end; a pass has every sample once.

    Args:
        inputs: shape (samples, …).
        batch: samples per batch.
        generator: decides the order.
    """
    while True:
        yield from _batches(inputs, batch, generator)


def _batches(inputs: NDArray[Any], batch: int, generator: torch.Generator) -> list[Tensor]:
    """Rows of random batches that hold every sample once.

    Samples of text are stored shortest first: neighbours in a random selection of them have similar
    lengths, so batches of neighbours need less padding.
    """
    order = torch.randperm(len(inputs), generator=generator)
    if inputs.dtype.kind == "f":
        return list(torch.split(order, batch))
    parts = (part.sort().values for part in torch.split(order, _SORTED_BATCHES * batch))
    batches = [rows for part in parts for rows in torch.split(part, batch)]
    return [batches[i] for i in torch.randperm(len(batches), generator=generator)]
