"""Ordinary training for a few epochs, with the dense network as a teacher if there is one."""

from __future__ import annotations

import logging
import math
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from rmtcli.computing.steps import tracked
from rmtcli.errors import TrainingError, UsageError
from rmtcli.evaluation import Reading, Samples
from rmtcli.evaluation.network import run
from rmtcli.options import option
from rmtcli.running.distill import divergence

_LOGGER = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Training:
    """How to train.

    Attributes:
        epochs: passes over the samples.
        lr: initial learning rate of AdamW; it falls to 0 along a cosine.
        batch: samples per step.
        distill: share of the loss that is the Kullback–Leibler divergence from the teacher's
            class probabilities (Hinton et al., 2015); the rest is the cross-entropy of the labels.
        seed: random seed for the order of the samples and for dropout.

    Raises:
        UsageError: a value is out of range.
    """

    epochs: int = 5
    lr: float = 3e-4
    batch: int = 128
    distill: float = 0.0
    seed: int = 0

    def __post_init__(self) -> None:
        if self.epochs < 1 or self.batch < 1:
            raise UsageError("epochs and samples in a batch must be at least 1")
        if not 0 < self.lr < math.inf:
            raise UsageError(f"{option('lr')} must be above 0, not {self.lr}")
        if not 0 <= self.distill <= 1:
            raise UsageError(f"{option('distill')} must be from 0 to 1, not {self.distill}")


def train(
    model: nn.Module,
    teacher: nn.Module | None,
    samples: Samples,
    settings: Training,
    reading: Reading,
) -> None:
    """Train all parameters of a network, in place, and leave it in evaluation mode.

    Args:
        model: the network, on its device.
        teacher: the dense network, in evaluation mode; None if ``settings.distill`` is 0.
        samples: samples to train on, with targets unless ``settings.distill`` is 1.
        settings: how to train.
        reading: how the outputs of both networks are read, as classes.

    Raises:
        EvaluationError: the network does not take the samples.
        TrainingError: the loss is NaN or infinite.
    """
    optimizer = torch.optim.AdamW(model.parameters(), lr=settings.lr)
    steps = settings.epochs * -(-len(samples.inputs) // settings.batch)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
    torch.manual_seed(settings.seed)  # dropout uses it too
    # Report inputs that the network does not take.
    run(model, torch.from_numpy(samples.inputs[:2]), str(samples.path))
    model.train()
    for epoch in range(settings.epochs):
        label = f"training: pass {epoch + 1} of {settings.epochs}"
        _LOGGER.info("%s", label)
        for rows in tracked(
            torch.split(torch.randperm(len(samples.inputs)), settings.batch), label
        ):
            x, y = _batch(model, samples, rows)
            loss = _loss(model, teacher, x, y, settings.distill, reading)
            if not bool(loss.isfinite()):
                value = float(loss.detach())
                raise TrainingError(
                    f"{samples.path}: the loss is {value} in pass {epoch + 1}: lower {option('lr')}"
                )
            optimizer.zero_grad()
            torch.autograd.backward(loss)
            optimizer.step()
            schedule.step()
    model.eval()


def _batch(model: nn.Module, samples: Samples, rows: Tensor) -> tuple[Tensor, Tensor | None]:
    """Inputs and targets of some rows, on the model's device."""
    first = next(model.parameters())
    inputs = torch.from_numpy(samples.inputs[rows.numpy()]).to(first.device)
    if inputs.is_floating_point():
        inputs = inputs.to(first.dtype)
    if samples.targets is None:
        return inputs, None
    return inputs, torch.from_numpy(samples.targets[rows.numpy()]).to(first.device)


def _loss(
    model: nn.Module,
    teacher: nn.Module | None,
    inputs: Tensor,
    targets: Tensor | None,
    share: float,
    reading: Reading,
) -> Tensor:
    """The mix of cross-entropy and distillation loss on a batch."""
    outputs = reading.scores(model(inputs)).float()
    loss = torch.zeros((), device=outputs.device)
    if targets is not None and share < 1:
        loss = loss + (1 - share) * nn.functional.cross_entropy(outputs, targets)
    if teacher is not None and share > 0:
        with torch.no_grad():
            target = reading.scores(teacher(inputs)).float()
        loss = loss + share * divergence(outputs, target)
    return loss
