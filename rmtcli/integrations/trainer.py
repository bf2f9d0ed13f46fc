"""RMT-SVD while a model trains, as a callback of the transformers Trainer.

>>> trainer = Trainer(model, args, callbacks=[RMTCallback(keep="auto")])  # doctest: +SKIP
"""

from __future__ import annotations

import functools
from typing import Any

from transformers import TrainerCallback
from transformers.trainer_callback import ExportableState

from rmtcli.checkpoint.names import module_of
from rmtcli.errors import UsageError
from rmtcli.integrations.callback import PruningCallback
from rmtcli.integrations.rmtcli_loading import RmtcliConfig, save_with_loader


class RMTCallback(PruningCallback, TrainerCallback, ExportableState):
    """Prunes before each epoch, or after each step.

    The directories that the trainer saves open with ``from_pretrained``, like every directory that
    rmtcli writes. To resume, set ``restore_callback_states_from_checkpoint=True`` in the training
    arguments.

    Args:
        interval: ``epoch`` or ``step``.
        log: ``.csv`` or ``.json`` file, written after each call.
        show: called with each :class:`~rmtcli.training.Step`.
        options: options of :class:`~rmtcli.training.RMTPruner`.

    Raises:
        UsageError: an option is wrong, more than one process trains, or the checkpoint's layers
            are split and the state of the run that split them was not restored.
    """

    def on_init_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Let the model load the weights of a pruned checkpoint."""
        self.session.watch(kwargs["model"])

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Create the pruner."""
        optimizer = getattr(kwargs["optimizer"], "optimizer", kwargs["optimizer"])
        resumed = self.session.saved is not None
        pruner = self.begin(kwargs["model"], optimizer, args.world_size)
        if state.global_step and not resumed and any(layer.split for layer in pruner.layers):
            raise UsageError(
                "the checkpoint's layers are split, and the callback's state was not restored: set "
                "restore_callback_states_from_checkpoint=True"
            )
        self._describe(kwargs["model"])

    def on_epoch_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Prune before an epoch."""
        self._prune_at("epoch", state, kwargs["model"])

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Prune after a step."""
        self._prune_at("step", state, kwargs["model"])

    def on_pre_optimizer_step(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Add the gradients of the penalties."""
        self.penalize()

    def state(self) -> dict[str, Any]:
        """Arguments and state, for the trainer's checkpoint."""
        ours = {"interval": self.session.interval, "log": str(self.session.log or "") or None}
        return {"args": ours | self.session.options, "attributes": {"saved": self.session.state()}}

    @property
    def saved(self) -> Any:
        """State of an interrupted run, until the pruner is created."""
        return self.session.saved

    @saved.setter
    def saved(self, state: Any) -> None:
        self.session.saved = state or None

    def _prune_at(self, moment: str, state: Any, model: Any) -> None:
        if self.prune_at(moment, lambda: _metrics(state)):
            self._describe(model)

    def _describe(self, model: Any) -> None:
        """Write the ranks into the model's configuration: loading the saved weights needs them."""
        pruner = self.session.pruner
        assert pruner is not None
        ranks = {module_of(layer.name): layer.rank for layer in pruner.layers if layer.split}
        if ranks:
            known = getattr(model.config, "quantization_config", None)
            narrowed = getattr(known, "narrowed", None)  # of a model that was narrower before
            model.config.quantization_config = RmtcliConfig(ranks, narrowed=narrowed)
            model.save_pretrained = functools.partial(save_with_loader, model)


def _metrics(state: Any) -> dict[str, float]:
    logged = state.log_history[-1] if state.log_history else {}
    return {name: float(v) for name, v in logged.items() if isinstance(v, int | float)}
