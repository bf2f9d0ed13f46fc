"""RMT-SVD while a model trains, as a callback of transformers' Trainer.

>>> trainer = Trainer(model, args, callbacks=[RMTCallback(keep="auto")])  # doctest: +SKIP
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from pathlib import Path
from typing import Any

from transformers import TrainerCallback
from transformers.trainer_callback import ExportableState

from rmtcli.checkpoint.names import module_of
from rmtcli.errors import UsageError
from rmtcli.integrations.rmtcli_loading import RmtcliConfig, save_with_loader
from rmtcli.training.session import Session
from rmtcli.training.step import Step


class RMTCallback(TrainerCallback, ExportableState):
    """Prunes before each epoch, or after each step.

    What the trainer saves opens with ``from_pretrained`` like every directory that rmtcli writes.
    To resume, set ``restore_callback_states_from_checkpoint=True`` in the training arguments.

    Args:
        interval: ``epoch`` or ``step``.
        log: ``.csv`` or ``.json`` file, written after each call.
        show: is given each :class:`~rmtcli.training.Step`.
        options: of :class:`~rmtcli.training.RMTPruner`.

    Raises:
        UsageError: a wrong option, or layers that were pruned in a run whose state is not there.
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

    def on_init_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Make the model ready for weights of its pruned self."""
        self.session.watch(kwargs["model"])

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Make the pruner."""
        if args.world_size > 1:
            raise UsageError("RMTCallback changes layers in place, which only one process can do")
        optimizer = getattr(kwargs["optimizer"], "optimizer", kwargs["optimizer"])
        resumed = self.session.saved is not None
        pruner = self.session.begin(kwargs["model"], optimizer)
        if state.global_step and not resumed and any(layer.split for layer in pruner.layers):
            raise UsageError(
                "the checkpoint's layers are split, and the callback's state was not restored: set "
                "restore_callback_states_from_checkpoint=True"
            )
        self._describe(kwargs["model"])

    def on_epoch_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Prune before an epoch."""
        if self.session.interval == "epoch":
            self._call(state, kwargs["model"])

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Prune after a step."""
        if self.session.interval == "step":
            self._call(state, kwargs["model"])

    def on_pre_optimizer_step(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Add the penalties' gradients."""
        assert self.session.pruner is not None
        self.session.pruner.penalize()

    def state(self) -> dict[str, Any]:
        """Arguments and state, for the trainer's checkpoint."""
        own = {"interval": self.session.interval, "log": str(self.session.log or "") or None}
        return {"args": own | self.session.options, "attributes": {"saved": self.session.state()}}

    @property
    def saved(self) -> Any:
        """State of a run that was stopped, until the pruner is made."""
        return self.session.saved

    @saved.setter
    def saved(self, state: Any) -> None:
        self.session.saved = state or None

    def _call(self, state: Any, model: Any) -> None:
        logged = state.log_history[-1] if state.log_history else {}
        self.session.call({n: float(v) for n, v in logged.items() if isinstance(v, int | float)})
        self._describe(model)

    def _describe(self, model: Any) -> None:
        """Let the configuration tell the ranks, without which the weights would not be loaded."""
        pruner = self.session.pruner
        assert pruner is not None
        ranks = {module_of(layer.name): layer.rank for layer in pruner.layers if layer.split}
        if ranks:
            model.config.quantization_config = RmtcliConfig(ranks)
            model.save_pretrained = functools.partial(save_with_loader, model)
