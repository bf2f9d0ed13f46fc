"""From a checkpoint to a torch module that runs."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from typing import Any

import torch
from torch import nn

from rmtcli.checkpoint import Checkpoint
from rmtcli.errors import EvaluationError, UsageError
from rmtcli.evaluation.base import Evaluation
from rmtcli.layers import bias_of, module_of
from rmtcli.lowrank import load, split_linear

#: What may stand between the layers of an inferred chain.
ACTIVATIONS: dict[str, type[nn.Module]] = {
    "relu": nn.ReLU,
    "gelu": nn.GELU,
    "silu": nn.SiLU,
    "tanh": nn.Tanh,
    "sigmoid": nn.Sigmoid,
    "identity": nn.Identity,
}


def build(evaluation: Evaluation, checkpoint: Checkpoint) -> nn.Module:
    """The module with the checkpoint's weights, in evaluation mode on its device.

    Raises:
        UsageError: the activation, the factory or the device cannot be found.
        EvaluationError: no chain can be inferred, or the factory gives no module.
        CheckpointError: the weights do not fit the module.
    """
    if evaluation.model is None:
        model: Any = infer_chain(checkpoint, evaluation.activation)
    else:
        model = import_callable(evaluation.model)()
        if not isinstance(model, nn.Module):
            raise EvaluationError(
                f"{evaluation.model} returned {type(model).__name__}, not a torch.nn.Module"
            )
    loaded = load(model, checkpoint).eval()
    try:
        return loaded.to(evaluation.device)
    except (RuntimeError, AssertionError) as error:
        reason = str(error).splitlines()[0]
        raise UsageError(f"device '{evaluation.device}' cannot be used: {reason}") from None


class Chain(nn.Module):
    """Linear layers one after another, under the names that the checkpoint gives them."""

    def __init__(self, layers: dict[str, nn.Module], activation: nn.Module) -> None:
        super().__init__()
        self.order = tuple(layers)
        self.activation = activation
        for name, layer in layers.items():
            parent: nn.Module = self
            *path, leaf = name.split(".")
            for part in path:
                if part not in parent._modules:
                    parent.add_module(part, nn.Module())
                parent = parent.get_submodule(part)
            parent.add_module(leaf, layer)

    def forward(self, inputs: torch.Tensor) -> torch.Tensor:
        """Inputs of shape (samples, …), flattened; outputs of shape (samples, classes)."""
        values = inputs.flatten(1)
        for name in self.order[:-1]:
            values = self.activation(self.get_submodule(name)(values))
        last: torch.Tensor = self.get_submodule(self.order[-1])(values)
        return last


def infer_chain(checkpoint: Checkpoint, activation: str) -> Chain:
    """The chain of linear layers that a checkpoint's shapes spell, in its order of names.

    Raises:
        UsageError: an unknown activation.
        EvaluationError: a tensor that is no linear layer's, or widths that do not follow on.
    """
    if activation not in ACTIVATIONS:
        known = ", ".join(ACTIVATIONS)
        raise UsageError(f"unknown activation '{activation}': choose one of {known}")
    factored = checkpoint.manifest.factored if checkpoint.manifest else {}
    layers: dict[str, nn.Module] = {}
    widths: list[tuple[str, int, int]] = []
    used: set[str] = set()
    for name, info in checkpoint.infos.items():
        module = module_of(name)
        if len(info.shape) != 2 or name in used or not module:
            continue
        rank = factored.get(module_of(module))
        if rank is not None:
            module = module_of(module)
            ends = [f"{module}.0.weight", f"{module}.1.weight"]
            bias = f"{module}.1.bias"
        else:
            ends, bias = [name], bias_of(module)
        used.update(ends, [bias] if bias in checkpoint.infos else [])
        inputs, out = checkpoint.infos[ends[0]].shape[-1], checkpoint.infos[ends[-1]].shape[0]
        linear = nn.Linear(inputs, out, bias=bias in checkpoint.infos, dtype=_dtype(info.dtype))
        layers[module] = linear if rank is None else split_linear(linear, rank)
        widths.append((module, inputs, out))
    other = next((name for name in checkpoint.infos if name not in used), None)
    why = None if layers else "it has no linear layers"
    if layers and other is not None:
        why = f"'{other}' belongs to no linear layer"
    for (before, _, out), (after, inputs, _) in pairwise(widths):
        if out != inputs:
            why = why or f"'{before}' gives {out} values and '{after}' takes {inputs}"
    if why:
        raise EvaluationError(
            f"{checkpoint.path}: not a plain chain of linear layers ({why}): "
            "name the network with --model package.module:factory"
        )
    return Chain(layers, ACTIVATIONS[activation]())


def import_callable(spec: str) -> Callable[..., Any]:
    """The function that ``package.module:function`` names; the working directory is searched too.

    Raises:
        UsageError: no such module or function, or not of that form.
    """
    module_name, colon, attribute = spec.partition(":")
    if not (module_name and colon and attribute):
        raise UsageError(f"'{spec}' must be written package.module:function")
    here = str(Path.cwd())
    if here not in sys.path:
        sys.path.insert(0, here)
    try:
        found = getattr(importlib.import_module(module_name), attribute)
    except (ImportError, AttributeError) as error:
        raise UsageError(f"'{spec}' cannot be imported: {error}") from None
    if not callable(found):
        raise UsageError(f"'{spec}' is not a function or class")
    return found  # type: ignore[no-any-return]


def _dtype(name: str) -> torch.dtype:
    """Half-precision weights are evaluated in float32, which holds them exactly."""
    return torch.float64 if name == "F64" else torch.float32
