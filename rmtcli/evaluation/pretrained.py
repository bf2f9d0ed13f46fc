"""Networks from Hugging Face directories, fed with one tensor."""

from __future__ import annotations

from typing import Any, cast

import torch
from torch import Tensor, nn

from rmtcli.checkpoint import Checkpoint, Edited, RawTensor
from rmtcli.checkpoint.torch_file import to_torch
from rmtcli.errors import EvaluationError
from rmtcli.evaluation.tasks import Task
from rmtcli.evaluation.text import MASK, SEGMENTS, TOKENS
from rmtcli.lowrank import SplitLinear
from rmtcli.names import factors_of, module_of


class Pretrained(nn.Module):
    """A transformers model that takes one tensor and gives rows of outputs.

    Attributes:
        network: transformers' own model.
        mask: shape (samples, positions), which positions of the last batch hold tokens; None
            before the first, and where inputs are not text.
    """

    def __init__(self, network: nn.Module, task: Task, head: Any, *, segments: bool) -> None:
        super().__init__()
        self.network = network
        self.mask: Tensor | None = None
        self._head, self._segments = head, segments

    def forward(self, inputs: Tensor) -> Tensor:
        """Rows of outputs.

        Args:
            inputs: shape (samples, 3, positions), token numbers, mask and segments; or images,
                shape (samples, channels, height, width).
        """
        if inputs.is_floating_point():
            return cast(Tensor, self._head(self.network(pixel_values=inputs), None))
        used = int(inputs[:, MASK].any(0).nonzero().max()) + 1
        inputs = inputs[..., :used]
        self.mask = inputs[:, MASK].bool()
        fields = {"input_ids": inputs[:, TOKENS], "attention_mask": inputs[:, MASK]}
        if self._segments:
            fields["token_type_ids"] = inputs[:, SEGMENTS]
        return cast(Tensor, self._head(self.network(**fields), self.mask))


def pretrained(checkpoint: Checkpoint, task: Task) -> Pretrained:
    """The network of a directory, in evaluation mode and float32, with a checkpoint's edits.

    Args:
        checkpoint: a directory, or one with changes laid over it.
        task: what the network is for.

    Raises:
        EvaluationError: transformers cannot load it, or weights that the task needs are missing.
    """
    import transformers

    directory = checkpoint.path
    try:
        network, found = getattr(transformers, task.auto).from_pretrained(
            directory, local_files_only=True, dtype=torch.float32, output_loading_info=True
        )
    # Whatever a configuration leads transformers to.
    except Exception as error:
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise EvaluationError(f"{directory}: transformers cannot load it: {reason}") from None
    missing = sorted(found["missing_keys"])
    if missing:
        raise EvaluationError(
            f"{directory}: holds no '{missing[0]}', which {type(network).__name__} needs: "
            "is this the right --task?"
        )
    if isinstance(checkpoint, Edited):
        _edit(network, checkpoint)
    segments = "token_type_ids" in network.forward.__code__.co_varnames
    return Pretrained(network.eval(), task, task.head(directory), segments=segments)


def _edit(network: nn.Module, checkpoint: Edited) -> None:
    """Put the tensors that a checkpoint replaces into a network that holds the old ones."""
    for old, tensors in checkpoint.edits.items():
        name = module_of(old)
        right, left, _ = factors_of(name)
        place = _place(network, name)
        if place is None:  # a part that this task does not use, such as another head
            continue
        if {right, left} <= tensors.keys():
            _split(network, place, tensors[right], tensors[left])
        else:
            for new, raw in tensors.items():
                _put(getattr(network.get_submodule(place), new.rpartition(".")[2]), raw)


def _split(network: nn.Module, place: str, right: RawTensor, left: RawTensor) -> None:
    """Two linear maps in place of one, with its bias."""
    linear = cast(nn.Linear, network.get_submodule(place))
    split = SplitLinear(linear, right.shape[0], bias=linear.bias is not None)
    split.left.bias = linear.bias
    _put(split.right.weight, right)
    _put(split.left.weight, left)
    parent, _, child = place.rpartition(".")
    setattr(network.get_submodule(parent), child, split)


def module_in(model: Pretrained, name: str) -> str | None:
    """A checkpoint's module by its name in the network; None where it has no such module."""
    found = _place(model.network, name)
    return None if found is None else f"network.{found}"


def _place(network: nn.Module, name: str) -> str | None:
    """The names differ by the base model's prefix."""
    base = f"{getattr(network, 'base_model_prefix', '')}."
    modules = dict(network.named_modules(remove_duplicate=False))
    places = (name, name.removeprefix(base), base + name)
    return next((place for place in places if place in modules), None)


@torch.no_grad()
def _put(parameter: Tensor, raw: RawTensor) -> None:
    parameter.copy_(to_torch(raw))
