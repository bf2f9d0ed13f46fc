"""The part of a pruning callback that is the same for every trainer."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from torch import nn
from torch.optim import Optimizer

from rmtcli.errors import UsageError
from rmtcli.training import RMTPruner
from rmtcli.training.session import Session
from rmtcli.training.step import Step


class PruningCallback:
    """A callback that prunes before each epoch, or after each step.

    Args:
        interval: ``epoch`` or ``step``.
        log: ``.csv`` or ``.json`` file, written after each call.
        show: called with each :class:`~rmtcli.training.Step`.
        options: options of :class:`~rmtcli.training.RMTPruner`.

    Attributes:
        session: the pruner, once training has begun, and its saved state before.

    Raises:
        UsageError: an option is wrong.
    """

    def __init__(
        self,
        *,
        interval: str = "epoch",
        log: str | Path | None = None,
        show: Callable[[Step], object] = print,
        **options: Any,
    ) -> None:
        self.session = Session(interval, log, show, options)

    def begin(self, model: nn.Module, optimizer: Optimizer, processes: int) -> RMTPruner:
        """Create the pruner when training begins.

        Raises:
            UsageError: several processes train the network.
        """
        if processes > 1:
            name = type(self).__name__
            raise UsageError(f"{name} changes layers in place, which only one process can do")
        return self.session.begin(model, optimizer)

    def prune_at(self, moment: str, metrics: Callable[[], Mapping[str, float]]) -> bool:
        """Call the pruner if ``moment`` is the interval that the user chose.

        Args:
            moment: ``epoch`` or ``step``.
            metrics: returns the values to log; called only if the pruner is.

        Returns:
            Whether the pruner was called.
        """
        due = self.session.interval == moment
        if due:
            self.session.call(metrics())
        return due

    def penalize(self) -> None:
        """Add the gradients of the penalties, before a step of the optimizer."""
        if self.session.pruner is not None:
            self.session.pruner.penalize()
