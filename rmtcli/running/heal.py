"""A few passes in which the factors learn to give what the dense network gives."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from rmtcli.evaluation.pretrained import Pretrained

_LOGGER = logging.getLogger(__name__)

#: Samples to a step.
BATCH = 128
#: Batches of tokens that are sorted by length together.
_NEAR = 16
#: Step of Adam, as a share of the root mean square of the tensor that sets its scale. Every
#: layer learns at its own scale, so the rate needs no tuning to the network.
RATE = 0.003
#: The same where hidden states are matched as well: they say more, and steps can be longer.
DEEP_RATE = 0.006


def heal(
    dense: nn.Module,
    pruned: nn.Module,
    trained: Sequence[tuple[Tensor, Tensor]],
    inputs: NDArray[Any],
    run: Callable[[nn.Module, Tensor], Tensor],
    *,
    passes: int,
    vectors: bool = False,
    batch: int = BATCH,
    seed: int = 0,
) -> None:
    """Train parameters of the compressed network, in place, to give what the dense one gives.

    The loss is the Kullback–Leibler divergence from the dense network's probabilities (distillation
    at temperature 1, Hinton et al., 2015), or for vectors what their cosine is short of 1, and the
    mean squared distance of the hidden states after each block, as shares of their variance (Jiao
    et al., TinyBERT, 2020): a vector a text says little about each of its tokens. Adam with a
    cosine schedule. No labels are used. Inputs in floating point are mixed in pairs (Zhang et al.,
    2018): the dense network answers between the samples too, and a few thousand of them alone
    would be learned by heart. Both networks stay in evaluation mode.

    Args:
        dense: the dense network.
        pruned: the compressed one.
        trained: parameters to change, each with the one whose root mean square sets its step.
        inputs: shape (samples, …).
        run: gives a network's outputs.
        passes: how often every sample is seen.
        vectors: whether the outputs are vectors and not class scores.
        batch: samples to a step.
        seed: of the order of the samples.
    """
    loss = _Loss(dense, pruned, inputs, run, vectors=vectors)
    rate = DEEP_RATE if loss.deep else RATE
    with torch.no_grad():
        rates = [rate * float(scale.square().mean().sqrt()) for _, scale in trained]
    groups = [{"params": [p], "lr": rate} for (p, _), rate in zip(trained, rates, strict=True)]
    optimizer = torch.optim.Adam(groups, betas=(0.9, 0.99))
    steps = passes * -(-len(inputs) // batch)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
    generator = torch.Generator().manual_seed(seed)
    pruned.requires_grad_(False)
    for parameter, _ in trained:
        parameter.requires_grad_(True)
    for done in range(passes):
        _LOGGER.info("healing: pass %d of %d", done + 1, passes)
        for rows in _batches(inputs, batch, generator):
            optimizer.zero_grad()
            torch.autograd.backward(loss(rows, generator))
            optimizer.step()
            schedule.step()
    loss.end()


class _Loss:
    """How far the compressed network is from the dense one.

    Args:
        dense: the dense network.
        pruned: the compressed one.
        inputs: shape (samples, …).
        run: gives a network's outputs.
        vectors: whether the outputs are vectors and not class scores.
    """

    def __init__(
        self,
        dense: nn.Module,
        pruned: nn.Module,
        inputs: NDArray[Any],
        run: Callable[[nn.Module, Tensor], Tensor],
        *,
        vectors: bool,
    ) -> None:
        self.dense, self.pruned, self.inputs, self.run = dense, pruned, inputs, run
        self.apart = _angle if vectors else divergence
        self.deep: tuple[Pretrained, ...] = ()
        if vectors and isinstance(dense, Pretrained) and isinstance(pruned, Pretrained):
            self.deep = (pruned, dense)
            for network in self.deep:
                network.deep = True
        self.known = None
        if inputs.dtype.kind != "f" and not self.deep:
            self.known = self._targets()

    def __call__(self, rows: Tensor, generator: torch.Generator) -> Tensor:
        """The loss of some samples."""
        x = _tensor(self.inputs[rows.numpy()])
        if x.is_floating_point():
            x = _mixed(x, self.inputs, generator)
        if self.known is not None:
            target = self.known[rows]
        else:
            with torch.no_grad():
                target = self.run(self.dense, x)
        loss = self.apart(self.run(self.pruned, x), target)
        states = [network.hidden for network in self.deep]
        return loss + _inside(*states) if any(states) else loss

    def end(self) -> None:
        """Let the networks forget their hidden states."""
        for network in self.deep:
            network.deep, network.hidden = False, ()

    @torch.no_grad()
    def _targets(self) -> Tensor | None:
        """What the dense network gives for every sample, where that is one row each; else None.

        Inputs that are not mixed are the same in every pass. A language model's rows would be too
        many to keep.
        """
        found = []
        for start in range(0, len(self.inputs), BATCH):
            x = _tensor(self.inputs[start : start + BATCH])
            found.append(self.run(self.dense, x))
            if len(found[-1]) != len(x):
                return None
        return torch.cat(found)


def divergence(outputs: Tensor, target: Tensor) -> Tensor:
    """Mean Kullback–Leibler divergence from the target's class probabilities, both class scores."""
    logs = (outputs.log_softmax(1), target.log_softmax(1))
    return nn.functional.kl_div(*logs, reduction="batchmean", log_target=True)


def _angle(outputs: Tensor, target: Tensor) -> Tensor:
    return 1 - nn.functional.cosine_similarity(outputs, target).mean()


def _inside(outputs: Sequence[Tensor], targets: Sequence[Tensor]) -> Tensor:
    """Mean squared distance of hidden states, as a share of their variance."""
    parts = [
        (a - b).square().mean() / (b - b.mean(0)).square().mean()
        for a, b in zip(outputs, targets, strict=True)
    ]
    return torch.stack(parts).mean()


def _batches(inputs: NDArray[Any], batch: int, generator: torch.Generator) -> list[Tensor]:
    """Every sample once, in random batches.

    Token numbers come shortest first: batches of neighbours, drawn from a random part of them,
    need less padding.
    """
    order = torch.randperm(len(inputs), generator=generator)
    if inputs.dtype.kind == "f":
        return list(torch.split(order, batch))
    parts = (part.sort().values for part in torch.split(order, _NEAR * batch))
    found = [rows for part in parts for rows in torch.split(part, batch)]
    return [found[i] for i in torch.randperm(len(found), generator=generator)]


def _mixed(x: Tensor, inputs: NDArray[Any], generator: torch.Generator) -> Tensor:
    """Each sample, moved towards another one by a random share of the way."""
    rows = torch.randint(len(inputs), (len(x),), generator=generator)
    share = torch.rand(len(x), *[1] * (x.ndim - 1), generator=generator, dtype=x.dtype)
    return share * x + (1 - share) * _tensor(inputs[rows.numpy()])


def _tensor(inputs: NDArray[Any]) -> Tensor:
    return torch.from_numpy(np.array(inputs))
