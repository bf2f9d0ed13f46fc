"""Train parameters of a compressed network to reproduce the dense network's outputs."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from rmtcli.computing.steps import tracked
from rmtcli.evaluation import Rows
from rmtcli.evaluation.pretrained import Pretrained
from rmtcli.running.again import ROOM, computed_again, kept
from rmtcli.running.batches import BATCH, endless
from rmtcli.running.descent import RATE, Extent, Schedule, descend

_LOGGER = logging.getLogger(__name__)

#: Learning rate where hidden states are matched too.
DEEP_RATE = 0.008
#: Fewer samples than this are mixed in pairs, because they would be memorised.
MIXED_BELOW = 10_000


def distill(
    loss: DistillationLoss,
    trained: Sequence[tuple[nn.Parameter, float]],
    extent: Extent,
    *,
    start: float,
    batch: int = BATCH,
    seed: int = 0,
    around: Callable[[torch.optim.Optimizer], None] = lambda optimizer: None,
) -> None:
    """Train parameters of the compressed network, in place, to reproduce the dense one's outputs.

    No labels are used. The optimizer is Adam, whose rate falls along a cosine with the share that
    is done. Both networks stay in evaluation mode.

    Args:
        loss: the networks, the inputs, and how far the networks' outputs are apart.
        trained: parameters to train, each with its scale, which its learning rate is a share of.
        extent: how long to train.
        start: value of ``time.monotonic`` from which on time counts.
        batch: samples per step.
        seed: random seed for the order of the samples and their mixing.
        around: adds what is to be done around each step to the optimizer.
    """
    generator = torch.Generator().manual_seed(seed)
    loss.pruned.requires_grad_(False)
    for parameter, _ in trained:
        parameter.requires_grad_(True)
    batches = endless(loss.inputs, batch, generator)
    schedule = Schedule(extent, -(-len(loss.inputs) // batch), start)
    rate = DEEP_RATE if loss.deep else RATE
    try:
        with computed_again(loss.pruned) if _is_large(loss, batch) else nullcontext():
            each = lambda rows: loss(rows, generator)  # noqa: E731
            descend(trained, rate, batches, each, schedule, around)
    finally:
        loss.end()


def _is_large(loss: DistillationLoss, batch: int) -> bool:
    """Whether a step keeps more for its backward pass than memory should hold.

    The last samples tell, which are the longest texts.
    """
    some = torch.arange(max(0, len(loss.inputs) - 2), len(loss.inputs))
    own = kept(lambda: loss(some, torch.Generator()), loss.pruned) / len(some)
    if own * batch <= ROOM:
        return False
    _LOGGER.info("healing: the backward pass computes the values within blocks again")
    return True


class DistillationLoss:
    """The loss that healing minimises: how far the compressed network is from the dense one.

    For scores of classes or labels it is the Kullback–Leibler divergence from the dense network's
    probabilities (distillation at temperature 1, Hinton et al., 2015); for numbers, the mean
    squared difference as a share of the dense numbers' mean square. For embeddings it is 1 minus
    the cosine, plus the mean squared distance of the hidden states after each block, as shares of
    their variance (Jiao et al., TinyBERT, 2020): one vector per text says little about each of its
    tokens. A few inputs in floating point are mixed in pairs (Zhang et al., 2018): the dense
    network answers for mixtures too, and training on a few thousand samples alone would overfit.

    Args:
        dense: the dense network.
        pruned: the compressed network.
        inputs: shape (samples, …).
        run: computes a network's outputs.
        rows: what a row of outputs is.
    """

    def __init__(
        self,
        dense: nn.Module,
        pruned: nn.Module,
        inputs: NDArray[Any],
        run: Callable[[nn.Module, Tensor], Tensor],
        *,
        rows: Rows,
    ) -> None:
        self.dense, self.pruned, self.inputs, self.run = dense, pruned, inputs, run
        self.distance = DISTANCES[rows]
        self.mixes = inputs.dtype.kind == "f" and len(inputs) < MIXED_BELOW
        self.deep: tuple[Pretrained, ...] = ()
        if (
            rows is Rows.VECTORS
            and isinstance(dense, Pretrained)
            and isinstance(pruned, Pretrained)
        ):
            self.deep = (pruned, dense)
            for network in self.deep:
                network.deep = True
        self.targets = None if self.mixes or self.deep else self._targets()

    def __call__(self, rows: Tensor, generator: torch.Generator) -> Tensor:
        """The loss of some samples."""
        x = _tensor(self.inputs[rows.numpy()])
        if self.mixes:
            x = _mixed(x, self.inputs, generator)
        if self.targets is not None:
            target = self.targets[rows]
        else:
            with torch.no_grad():
                target = self.run(self.dense, x)
        loss = self.distance(self.run(self.pruned, x), target)
        states = [network.hidden for network in self.deep]
        return loss + _hidden_distance(*states) if any(states) else loss

    def end(self) -> None:
        """Release the hidden states that the networks hold."""
        for network in self.deep:
            network.deep, network.hidden = False, ()

    @torch.no_grad()
    def _targets(self) -> Tensor | None:
        """The dense network's outputs for all samples, if that is one row per sample; else None.

        Inputs that are not mixed are the same in every pass. A language model has too many rows to
        keep.
        """
        outputs = []
        for start in tracked(range(0, len(self.inputs), BATCH), "outputs of the dense network"):
            x = _tensor(self.inputs[start : start + BATCH])
            outputs.append(self.run(self.dense, x))
            if len(outputs[-1]) != len(x):
                return None
        return torch.cat(outputs)


def divergence(outputs: Tensor, target: Tensor) -> Tensor:
    """Mean Kullback–Leibler divergence of class scores from the target's class scores, in nats."""
    logs = (outputs.log_softmax(1), target.log_softmax(1))
    return nn.functional.kl_div(*logs, reduction="batchmean", log_target=True)


def _label_divergence(outputs: Tensor, target: Tensor) -> Tensor:
    """Mean Kullback–Leibler divergence of label scores from the target's, in nats per label."""
    logs = (torch.stack([x, torch.zeros_like(x)], -1).flatten(0, -2) for x in (outputs, target))
    return divergence(*logs)


def _squared_distance(outputs: Tensor, target: Tensor) -> Tensor:
    """Mean squared difference, as a share of the target's mean square."""
    return (outputs - target).square().mean() / target.square().mean().clamp_min(1e-30)


def _cosine_distance(outputs: Tensor, target: Tensor) -> Tensor:
    """1 minus the mean cosine."""
    return 1 - nn.functional.cosine_similarity(outputs, target).mean()


DISTANCES = {
    Rows.CLASSES: divergence,
    Rows.LABELS: _label_divergence,
    Rows.VECTORS: _cosine_distance,
    Rows.VALUES: _squared_distance,
}


def _hidden_distance(outputs: Sequence[Tensor], targets: Sequence[Tensor]) -> Tensor:
    """Mean squared distance of hidden states, as a share of their variance."""
    parts = [
        (a - b).square().mean() / (b - b.mean(0)).square().mean()
        for a, b in zip(outputs, targets, strict=True)
    ]
    return torch.stack(parts).mean()


def _mixed(x: Tensor, inputs: NDArray[Any], generator: torch.Generator) -> Tensor:
    """Each sample mixed with a random other one, by a random share."""
    rows = torch.randint(len(inputs), (len(x),), generator=generator)
    share = torch.rand(len(x), *[1] * (x.ndim - 1), generator=generator, dtype=x.dtype)
    return share * x + (1 - share) * _tensor(inputs[rows.numpy()])


def _tensor(inputs: NDArray[Any]) -> Tensor:
    return torch.from_numpy(np.array(inputs))
