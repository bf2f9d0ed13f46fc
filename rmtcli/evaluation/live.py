"""Networks in memory: copies that share their values."""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from functools import cached_property
from typing import Any, cast

from torch import nn

from rmtcli.checkpoint import Checkpoint, Edited
from rmtcli.checkpoint.torch.memory import (
    bare,
    core_of,
    is_pretrained,
    is_sentence_transformer,
)
from rmtcli.errors import UsageError
from rmtcli.evaluation.pooling import embedding_head, pooling_by
from rmtcli.evaluation.pretrained import Pretrained
from rmtcli.evaluation.tasks import Head, SentenceEmbedding, Task
from rmtcli.layouts.copies import own_copy, shared_copy
from rmtcli.layouts.module import fill
from rmtcli.layouts.structure import install


class LiveNetwork:
    """A module in memory, as a network that can be built again with other weights.

    Args:
        given: the module: a network, perhaps in a wrapper, or a SentenceTransformer. It is never
            changed.

    Attributes:
        given: the module without wrappers.
        core: the network in it.
        transformers: whether the network is a model of transformers.
    """

    def __init__(self, given: nn.Module) -> None:
        self.given, self.core = bare(given), core_of(given)
        self.transformers = is_pretrained(self.core)

    @property
    def kind(self) -> str:
        """Name of the network's class."""
        return type(self.core).__name__

    @property
    def embeds(self) -> bool:
        """Whether it is a SentenceTransformer."""
        return is_sentence_transformer(self.given)

    @cached_property
    def config(self) -> Mapping[str, Any]:
        """The configuration of a model of transformers; empty for other networks."""
        own: Mapping[str, Any] = cast(Any, self.core).config.to_dict() if self.transformers else {}
        return own

    def tokenizer(self) -> Any:
        """The tokenizer of a SentenceTransformer.

        Raises:
            UsageError: the module has none.
        """
        if not self.embeds:
            raise UsageError(
                f"{self.kind}: has no tokenizer of its own: give dictionaries with 'input_ids'"
            )
        return cast(Any, self.given).tokenizer

    def build(self, checkpoint: Checkpoint, source: Checkpoint, task: Task) -> nn.Module:
        """A copy with the weights of a checkpoint, in evaluation mode.

        Args:
            checkpoint: the weights.
            source: the dense network's checkpoint. Where it is this module's own, what an edited
                version of it leaves alone is shared with the module.
            task: how it is fed.

        Raises:
            EvaluationError: the module cannot be copied.
            CheckpointError: the weights do not fit.
        """
        shares = source.module is self.given
        whole = shared_copy(self.given) if shares else own_copy(self.given)
        core = core_of(whole)
        if not shares:
            fill(core, checkpoint)
        elif isinstance(checkpoint, Edited):
            install(core, checkpoint)
        core.eval()
        whole.eval()
        if not self.transformers:
            return core
        segments = "token_type_ids" in inspect.signature(core.forward).parameters
        return Pretrained(core, task, self._head(task, source), segments=segments, whole=whole)

    def _head(self, task: Task, source: Checkpoint) -> Head:
        if not isinstance(task, SentenceEmbedding):
            return task.head(source.path)
        pooling = (m for m in self.given.modules() if type(m).__name__ == "Pooling" and self.embeds)
        settings: Mapping[str, Any] = next((cast(Any, m).get_config_dict() for m in pooling), {})
        return embedding_head(pooling_by(settings, type(self.given).__name__))
