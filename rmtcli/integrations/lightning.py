"""RMT-SVD while a network trains, as a callback of Lightning (the extra ``lightning``).

>>> trainer = Trainer(callbacks=[RMTPruning(schedule="constant:of=0.45")])  # doctest: +SKIP
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from lightning.pytorch import Callback, LightningModule, Trainer
from torch.optim import Optimizer

from rmtcli.errors import UsageError
from rmtcli.training.session import Session
from rmtcli.training.step import Step


class RMTPruning(Callback):
    """Prunes before each epoch, or after each step; checkpoints resume.

    Args:
        interval: ``epoch`` or ``step``.
        log: ``.csv`` or ``.json`` file, written after each call.
        show: is given each :class:`~rmtcli.training.Step`.
        options: of :class:`~rmtcli.training.RMTPruner`.

    Raises:
        UsageError: a wrong option, or more than one optimizer.
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

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Make the module ready for weights of its pruned self."""
        self.session.watch(pl_module)

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Make the pruner: the optimizer is there now, its state is not loaded yet."""
        if len(trainer.optimizers) != 1:
            raise UsageError(f"RMTPruning needs one optimizer, not {len(trainer.optimizers)}")
        if trainer.world_size > 1:
            raise UsageError("RMTPruning changes layers in place, which only one process can do")
        self.session.begin(pl_module, trainer.optimizers[0])

    def on_train_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Prune before an epoch."""
        if self.session.interval == "epoch":
            self.session.call(_metrics(trainer))

    def on_train_batch_end(self, trainer: Trainer, *_: Any) -> None:
        """Prune after a step."""
        if self.session.interval == "step":
            self.session.call(_metrics(trainer))

    def on_before_optimizer_step(
        self, trainer: Trainer, pl_module: LightningModule, optimizer: Optimizer
    ) -> None:
        """Add the penalties' gradients."""
        if self.session.pruner is not None:
            self.session.pruner.penalize()

    def state_dict(self) -> dict[str, Any]:
        """The pruner's state."""
        return self.session.state()

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Keep the state until the pruner is made."""
        self.session.saved = state_dict


def _metrics(trainer: Trainer) -> dict[str, float]:
    return {name: float(value) for name, value in trainer.callback_metrics.items()}
