"""Adam with a rate that rises with the number of steps, and falls with the share that is done."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import TypeVar

import torch
from torch import Tensor, nn

from rmtcli.computing.steps import Teller

T = TypeVar("T")
#: Learning rate of Adam, as a share of the root mean square of the tensor that sets its scale.
#: Every tensor learns at its own scale, so the rate needs no tuning to the network.
RATE = 0.005
#: With fewer steps than this, the rate is lower in proportion: there is no time to average out the
#: noise of larger steps.
SETTLED = 1_000
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


@dataclass(frozen=True, slots=True)
class Schedule:
    """When a training starts and ends.

    Attributes:
        extent: how long to train.
        per_pass: number of steps per pass.
        start: value of ``time.monotonic`` from which on time counts.
        label: what the training is called while it runs.
        settled: number of steps from which on the rate is the whole one.
    """

    extent: Extent
    per_pass: int
    start: float
    label: str = "healing"
    settled: int = SETTLED


def descend(
    trained: Sequence[tuple[nn.Parameter, float]],
    rate: float,
    batches: Iterable[T],
    loss: Callable[[T], Tensor],
    schedule: Schedule,
    around: Callable[[torch.optim.Optimizer], None] = lambda optimizer: None,
) -> None:
    """Train parameters in place, with a rate that falls along a cosine.

    Args:
        trained: parameters to train, each with its scale, which its learning rate is a share of.
        rate: this share, at the start.
        batches: the batches, without end.
        loss: the loss of a batch.
        schedule: when the training starts and ends.
        around: adds what is to be done around each step to the optimizer.
    """
    groups = [{"params": [p], "lr": rate * scale, "most": rate * scale} for p, scale in trained]
    optimizer = torch.optim.Adam(groups, betas=(0.9, 0.99), fused=True)
    around(optimizer)
    course = _Course(schedule)
    for batch in batches:
        share = course.next()
        if share >= 1:
            break
        height = (1 + math.cos(math.pi * share)) / 2 * min(1.0, course.steps / schedule.settled)
        for group in optimizer.param_groups:
            group["lr"] = group["most"] * height
        optimizer.zero_grad()
        value = loss(batch)
        torch.autograd.backward(value)
        optimizer.step()
        course.note(float(value.detach()))


class _Course:
    """How far the training is, and its loss; both are logged.

    Args:
        schedule: when the training starts and ends.

    Attributes:
        steps: number of all steps, as far as it can be told.
    """

    def __init__(self, schedule: Schedule) -> None:
        self.steps = 1.0
        self._schedule, self._extent = schedule, schedule.extent
        self._done, self._loss, self._teller = 0, math.nan, Teller()

    def next(self) -> float:
        """The share that is done, which is logged."""
        seconds = time.monotonic() - self._schedule.start
        share = self._extent.share(self._done / self._schedule.per_pass, seconds)
        if self._extent.passes and not self._done:
            self.steps = self._extent.passes * self._schedule.per_pass
        elif share:
            self.steps = self._done / share
        left = seconds / share - seconds if share else 60 * self._extent.minutes
        label = self._schedule.label
        if self._done:
            minutes, rest = divmod(math.ceil(left), 60)
            label = f"{label}: loss {self._loss:.3g}, {minutes}:{rest:02d} left"
        self._teller.tell(label, int(100 * share), 100)
        return share

    def note(self, loss: float) -> None:
        """Record the loss of one more batch."""
        first = math.isnan(self._loss)
        self._loss = loss if first else (1 - _SHOWN) * self._loss + _SHOWN * loss
        self._done += 1
