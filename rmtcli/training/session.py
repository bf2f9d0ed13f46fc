"""The part that the callbacks of all trainers share."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from torch import nn
from torch.optim import Optimizer

from rmtcli.errors import UsageError
from rmtcli.training.find import adopt
from rmtcli.training.log import check_ending, write_log
from rmtcli.training.pruner import RMTPruner
from rmtcli.training.step import Step


class Session:
    """A pruner inside a trainer: made when training begins, called once per epoch or step.

    Args:
        interval: ``epoch``, to call the pruner before each epoch, or ``step``, to call it after
            each step of the optimizer.
        log: ``.csv`` or ``.json`` file, written after each call, or None.
        show: function that is called with each step; ``print`` prints one line.
        options: options of :class:`~rmtcli.training.RMTPruner`.

    Raises:
        UsageError: the interval is unknown, or the log has another ending.
    """

    def __init__(
        self,
        interval: str,
        log: str | Path | None,
        show: Callable[[Step], object],
        options: Mapping[str, Any],
    ) -> None:
        if interval not in ("epoch", "step"):
            raise UsageError(f"interval must be 'epoch' or 'step', not '{interval}'")
        if log is not None:
            check_ending(log)
        self.interval, self.log, self.show, self.options = interval, log, show, dict(options)
        self.pruner: RMTPruner | None = None
        self.saved: Mapping[str, Any] | None = None

    def watch(self, model: nn.Module) -> None:
        """Let the model load state dicts of its pruned form, as a resuming trainer does."""

        def shape(module: nn.Module, state: Mapping[str, Any], prefix: str, *_: object) -> None:
            adopt(module, state, prefix)

        model.register_load_state_dict_pre_hook(shape)  # type: ignore[no-untyped-call]

    def begin(self, model: nn.Module, optimizer: Optimizer) -> RMTPruner:
        """Make the pruner, and restore its state if a run is resumed."""
        self.pruner = RMTPruner(model, optimizer, **self.options)
        if self.saved is not None:
            self.pruner.load_state_dict(self.saved)
            self.saved = None
        return self.pruner

    def call(self, metrics: Mapping[str, float]) -> None:
        """Prune if it is time, and show and log the step; only losses must be finite.

        Args:
            metrics: measurements of the trainer; those whose name ends in ``loss`` are used.
        """
        assert self.pruner is not None
        losses = {name: value for name, value in metrics.items() if name.endswith("loss")}
        step = self.pruner.step(**losses)
        self.show(step)
        if self.log is not None:
            write_log(self.pruner.log, self.log)

    def state(self) -> dict[str, Any]:
        """Return the pruner's state, for the trainer's checkpoint."""
        if self.pruner is not None:
            return self.pruner.state_dict()
        return dict(self.saved or {})
