"""RMT-SVD while a network trains, as a Lightning callback (the extra ``lightning``).

>>> trainer = Trainer(callbacks=[RMTPruning(schedule="constant:of=0.45")])  # doctest: +SKIP
"""

from __future__ import annotations

from typing import Any

from lightning.pytorch import Callback, LightningModule, Trainer
from torch.optim import Optimizer

from rmtcli.errors import UsageError
from rmtcli.integrations.callback import PruningCallback


class RMTPruning(PruningCallback, Callback):
    """Prunes before each epoch, or after each step; training resumes from Lightning's checkpoints.

    Args:
        interval: ``epoch`` or ``step``.
        log: ``.csv`` or ``.json`` file, written after each call.
        show: called with each :class:`~rmtcli.training.Step`.
        options: options of :class:`~rmtcli.training.RMTPruner`.

    Raises:
        UsageError: an option is wrong, or training uses more than one optimizer or process.
    """

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Let the module load the weights of a pruned checkpoint."""
        self.session.watch(pl_module)

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Create the pruner: the optimizer exists by now, and its state is not loaded yet."""
        if len(trainer.optimizers) != 1:
            raise UsageError(f"RMTPruning needs one optimizer, not {len(trainer.optimizers)}")
        self.begin(pl_module, trainer.optimizers[0], trainer.world_size)

    def on_train_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Prune before an epoch."""
        self.prune_at("epoch", lambda: _metrics(trainer))

    def on_train_batch_end(self, trainer: Trainer, *_: Any) -> None:
        """Prune after a step."""
        self.prune_at("step", lambda: _metrics(trainer))

    def on_before_optimizer_step(
        self, trainer: Trainer, pl_module: LightningModule, optimizer: Optimizer
    ) -> None:
        """Add the gradients of the penalties."""
        self.penalize()

    def state_dict(self) -> dict[str, Any]:
        """The pruner's state, for Lightning's checkpoint."""
        return self.session.state()

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Keep the state until the pruner is created."""
        self.session.saved = state_dict


def _metrics(trainer: Trainer) -> dict[str, float]:
    return {name: float(value) for name, value in trainer.callback_metrics.items()}
