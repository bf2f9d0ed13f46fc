"""Train parameters of a compressed network to reproduce the dense network's outputs."""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from rmtcli.computing.steps import Teller, tracked
from rmtcli.evaluation import Rows
from rmtcli.evaluation.pretrained import Pretrained
from rmtcli.running.again import ROOM, computed_again, kept
from rmtcli.running.batches import BATCH, endless

_LOGGER = logging.getLogger(__name__)

#: Learning rate of Adam, as a share of the root mean square of the tensor that sets its scale.
#: Every tensor learns at its own scale, so the rate needs no tuning to the network.
RATE = 0.005
#: Learning rate where hidden states are matched too.
DEEP_RATE = 0.008
#: With fewer steps than this, the rate is lower in proportion: there is no time to average out the
#: noise of larger steps.
SETTLED = 1_000
#: Fewer samples than this are mixed in pairs, because they would be memorised.
MIXED_BELOW = 10_000
#: Share of a new batch's loss in the mean that is shown.
_SHOWN = 0.05


@dataclass(frozen=True, slots=True)
class Extent:
    """How long to train: until the first of its limits.

    Attributes:
        passes: number of passes over the samples; 0 for any number.
        minutes: wall-clock time; 0 for any time.
    """

    passes: int
    minutes: float

    def share(self, passes: float, seconds: float) -> float:
        """The share that is done, from 0 to 1, after so many passes and seconds."""
        by_passes = passes / self.passes if self.passes else 0.0
        return min(1.0, max(by_passes, seconds / (60 * self.minutes) if self.minutes else 0.0))


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
    rate = DEEP_RATE if loss.deep else RATE
    groups = [{"params": [p], "lr": rate * scale, "most": rate * scale} for p, scale in trained]
    optimizer = torch.optim.Adam(groups, betas=(0.9, 0.99), fused=True)
    around(optimizer)
    generator = torch.Generator().manual_seed(seed)
    loss.pruned.requires_grad_(False)
    for parameter, _ in trained:
        parameter.requires_grad_(True)
    course = _Course(extent, -(-len(loss.inputs) // batch), start)
    try:
        with computed_again(loss.pruned) if _is_large(loss, batch) else nullcontext():
            for rows in endless(loss.inputs, batch, generator):
                share = course.next()
                if share >= 1:
                    break
                height = (1 + math.cos(math.pi * share)) / 2 * min(1.0, course.steps / SETTLED)
                for group in optimizer.param_groups:
                    group["lr"] = group["most"] * height
                optimizer.zero_grad()
                value = loss(rows, generator)
                torch.autograd.backward(value)
                optimizer.step()
                course.note(float(value.detach()))
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


class _Course:
    """How far the training is, and its loss; both are logged.

    Args:
        extent: how long to train.
        steps: number of steps per pass.
        start: value of ``time.monotonic`` from which on time counts.

    Attributes:
        steps: number of all steps, as far as it can be told.
    """

    def __init__(self, extent: Extent, steps: int, start: float) -> None:
        self.steps = 1.0
        self._extent, self._per_pass, self._start = extent, steps, start
        self._done, self._loss, self._teller = 0, math.nan, Teller()

    def next(self) -> float:
        """The share that is done, which is logged."""
        seconds = time.monotonic() - self._start
        share = self._extent.share(self._done / self._per_pass, seconds)
        if self._extent.passes and not self._done:
            self.steps = self._extent.passes * self._per_pass
        elif share:
            self.steps = self._done / share
        left = seconds / share - seconds if share else 60 * self._extent.minutes
        label = "healing"
        if self._done:
            minutes, rest = divmod(math.ceil(left), 60)
            label = f"healing: loss {self._loss:.3g}, {minutes}:{rest:02d} left"
        self._teller.tell(label, int(100 * share), 100)
        return share

    def note(self, loss: float) -> None:
        """Record the loss of one more batch."""
        first = math.isnan(self._loss)
        self._loss = loss if first else (1 - _SHOWN) * self._loss + _SHOWN * loss
        self._done += 1


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
