"""Networks of Hugging Face directories, loaded by transformers and fed with one tensor."""

from __future__ import annotations

import inspect
from collections.abc import Collection
from dataclasses import replace
from itertools import count
from operator import attrgetter
from typing import Any, cast

import torch
from torch import Tensor, nn

from rmtcli.checkpoint import Checkpoint
from rmtcli.checkpoint.huggingface import refuse_code
from rmtcli.checkpoint.huggingface.loading import quantization_config
from rmtcli.checkpoint.torch.file import to_torch
from rmtcli.errors import EvaluationError, first_line
from rmtcli.evaluation.tasks import Seq2SeqLM, Task, TextClassification
from rmtcli.evaluation.text import MASK, SEGMENTS, TARGET, TARGET_MASK, TOKENS, quiet
from rmtcli.layouts.pivoted_module import PivotedModule
from rmtcli.layouts.split import SplitLinear, is_plain_convolution
from rmtcli.layouts.tables import SplitHead, SplitTable
from rmtcli.options import option


class Pretrained(nn.Module):
    """A transformers model that maps one tensor to rows of outputs.

    Attributes:
        network: the transformers model.
        masks: which positions of the last batch hold tokens, shape (samples, positions): of the
            texts and, for an encoder-decoder, of the targets, whose shape is another. Empty before
            the first batch, and if inputs are not text.
        deep: whether to keep hidden states.
        hidden: hidden states of the last batch after each block, without padding, shape
            (tokens, width) each; empty if they are not kept.

    Raises:
        EvaluationError: an encoder-decoder whose configuration does not say how texts start.
    """

    def __init__(
        self,
        network: nn.Module,
        task: Task,
        head: Any,
        *,
        segments: bool,
        whole: nn.Module | None = None,
    ) -> None:
        super().__init__()
        self.network = network
        self._own = (network if whole is None else whole,)  # in a tuple, torch does not list it
        self._live = whole is not None
        self.masks: tuple[Tensor, ...] = ()
        self.deep = False
        self.hidden: tuple[Tensor, ...] = ()
        self._head, self._segments = head, segments
        self._config: Any = cast(Any, network).config.get_text_config()
        padding = getattr(self._config, "pad_token_id", None)
        self._padding = padding if isinstance(padding, int) and padding >= 0 else None
        # Such a head (XLNet's) reads the last position, whatever is there.
        last = getattr(self._config, "summary_type", None) == "last"
        self._reads_last = last and isinstance(task, TextClassification)
        start = getattr(self._config, "decoder_start_token_id", None)
        if isinstance(task, Seq2SeqLM) and start is None:
            raise EvaluationError(
                f"{type(network).__name__}: its configuration has no 'decoder_start_token_id', the "
                "token that a decoder reads first: add it to config.json"
            )

    @property
    def whole(self) -> nn.Module:
        """The model as its user knows it: the transformers model, or the one that it is part of."""
        return self._own[0]

    @property
    def positions(self) -> int | None:
        """The number of positions that the configuration gives; None if it gives none."""
        positions = getattr(self._config, "max_position_embeddings", None)
        return positions if isinstance(positions, int) else None

    def forward(self, inputs: Tensor) -> Tensor:
        """Compute rows of outputs.

        Args:
            inputs: token numbers, mask and perhaps segments, shape (samples, 2 or 3, positions);
                with tokens and mask of the targets, shape (samples, 4, positions); or images, shape
                (samples, channels, height, width).
        """
        if inputs.is_floating_point():
            return cast(Tensor, self._head(self.network(pixel_values=inputs), None))
        texts = _used(inputs, MASK)
        if self._reads_last:
            texts = _at_the_right(texts)
        mask = texts[:, MASK].bool()
        self.masks = (mask,)
        fields = {
            "input_ids": self._padded(texts[:, TOKENS], mask),
            "attention_mask": texts[:, MASK],
        }
        if inputs.shape[1] > TARGET_MASK:
            more, mask = self._decoder(inputs, mask.shape[1])
            self.masks, fields = (*self.masks, mask), fields | more
        elif self._segments and inputs.shape[1] > SEGMENTS:
            fields["token_type_ids"] = texts[:, SEGMENTS]
        if not self.deep:
            return cast(Tensor, self._head(self.network(**fields), mask))
        outputs = self.network(**fields, output_hidden_states=True)
        states = getattr(outputs, "hidden_states", None) or ()
        self.hidden = tuple(state[mask] for state in states[1:])
        return cast(Tensor, self._head(outputs, mask))

    def _decoder(self, inputs: Tensor, length: int) -> tuple[dict[str, Tensor], Tensor]:
        """What a decoder reads, each target shifted by one after a first token; and its mask.

        Their length is not that of the texts, so that a state's shape tells which mask is its own.
        """
        targets = _used(inputs, TARGET_MASK)
        if targets.shape[2] == length:
            targets = nn.functional.pad(targets, (0, 1))
        mask = targets[:, TARGET_MASK].bool()
        shifted = cast(Any, self.network).prepare_decoder_input_ids_from_labels(
            labels=self._padded(targets[:, TARGET], mask)
        )
        read = {"decoder_input_ids": shifted, "decoder_attention_mask": targets[:, TARGET_MASK]}
        return read, mask

    def _padded(self, tokens: Tensor, mask: Tensor) -> Tensor:
        """The token numbers, with the padding that the network knows.

        Some heads read the last token that is not padding, by its number. For a network without a
        padding token, padding is a number that no token of the batch has.
        """
        if self._padding is None:
            used = set(tokens[mask].tolist())
            padding = next(number for number in count() if number not in used)
            self._config.pad_token_id = padding
        else:
            padding = self._padding
        return tokens.masked_fill(~mask, padding)

    def modules_of(self, names: Collection[str]) -> dict[str, str]:
        """Names of the layers' modules, by layer name; layers that the model lacks are missing."""
        if self._live:
            own = dict(self.network.named_modules(remove_duplicate=False))
            held = (name for name in names if name in own and _holds_layer(own[name]))
            return {name: f"network.{name}" for name in held}
        from rmtcli.integrations.transformers import modules_of

        modules = modules_of(self.network, names)
        return {name: f"network.{module}" for name, module in modules.items()}


def _holds_layer(module: nn.Module) -> bool:
    """Whether a module is a linear layer or a table, split or not, or an ordinary convolution."""
    kinds = (nn.Linear, nn.Embedding, SplitLinear, PivotedModule, SplitTable, SplitHead)
    named = type(module).__name__ == "Conv1D"
    return isinstance(module, kinds) or named or is_plain_convolution(module)


def _used(inputs: Tensor, mask: int) -> Tensor:
    """The samples without the last positions that one of their masks leaves out everywhere."""
    return inputs[..., : int(inputs[:, mask].any(0).nonzero().max()) + 1]


def _at_the_right(inputs: Tensor) -> Tensor:
    """Texts with their padding before and not after them, shape (samples, fields, positions)."""
    length = inputs.shape[-1]
    positions = torch.arange(length, device=inputs.device)
    shifted = (positions + inputs[:, MASK].sum(1, keepdim=True)) % length
    return inputs.gather(2, shifted[:, None].expand_as(inputs))


def pretrained(checkpoint: Checkpoint, task: Task) -> Pretrained:
    """Load the network of a directory, in evaluation mode and float32.

    The weights come from the checkpoint, which may be an edited version of the directory's.
    transformers loads them as it would load them from a file.

    Args:
        checkpoint: a Hugging Face directory, or an edited version of one.
        task: what the network is for.

    Raises:
        CheckpointError: the directory names code.
        EvaluationError: transformers cannot load it, or weights that the task needs are missing.
    """
    state = {name: to_torch(checkpoint.raw(name), name) for name in checkpoint.distinct}
    return from_state(checkpoint, task, state)


def from_state(checkpoint: Checkpoint, task: Task, state: dict[str, Tensor]) -> Pretrained:
    """Load the network of a directory from tensors that stand for the checkpoint's.

    Args:
        checkpoint: a Hugging Face directory, or an edited version of one.
        task: what the network is for.
        state: a tensor for each name of the checkpoint.

    Raises:
        CheckpointError: the directory names code.
        EvaluationError: transformers cannot load it, or weights that the task needs are missing.
    """
    import transformers

    import rmtcli.integrations.transformers  # noqa: F401  opens factored directories

    directory = checkpoint.path
    refuse_code(directory)
    try:
        with quiet(transformers):
            config = transformers.AutoConfig.from_pretrained(
                directory, local_files_only=True, trust_remote_code=False
            )
            _describe(config, checkpoint)
            kind = getattr(transformers, task.auto)._model_mapping[type(config)]
            kind = kind[0] if isinstance(kind, list | tuple) else kind
            network, info = kind.from_pretrained(
                None,
                config=config,
                state_dict=state,
                dtype=torch.float32,
                output_loading_info=True,
                trust_remote_code=False,
            )
    # A configuration can make transformers raise anything.
    except EvaluationError:
        raise
    except Exception as error:
        reason = f"no {task.auto}" if isinstance(error, KeyError) else first_line(error)
        raise EvaluationError(f"{directory}: transformers cannot load it: {reason}") from None
    missing = sorted(info["missing_keys"])
    if missing:
        raise EvaluationError(
            f"{directory}: holds no '{missing[0]}', which {type(network).__name__} needs: "
            f"is this the right {option('task')}?"
        )
    segments = "token_type_ids" in inspect.signature(network.forward).parameters
    return Pretrained(network.eval(), task, task.head(directory), segments=segments)


def _describe(config: Any, checkpoint: Checkpoint) -> None:
    """Have a configuration describe the tensors as they are read.

    Raises:
        EvaluationError: another tool has quantised them in a way that is not read.
    """
    if checkpoint.about.quantized:
        raise EvaluationError(
            f"{checkpoint.path}: weights of {checkpoint.about.quantized} of a kind that is not "
            "read: the model must be saved without quantisation"
        )
    manifest = checkpoint.manifest
    vars(config).pop("quantization_config", None)  # tensors in few bits are read as whole ones
    if manifest is not None and (manifest.factored or manifest.shapes):
        config.quantization_config = quantization_config(replace(manifest, packed={}))
    for entry, width in (manifest.entries if manifest else {}).items():
        part, _, key = entry.rpartition(".")
        setattr(attrgetter(part)(config) if part else config, key, width)
