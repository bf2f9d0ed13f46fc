"""Inferring a chain of linear layers from a checkpoint alone."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from itertools import pairwise

import torch
from torch import nn

from rmtcli.checkpoint import Checkpoint
from rmtcli.checkpoint.names import factors_of, member, module_of, pivots_of
from rmtcli.errors import EvaluationError
from rmtcli.layers import Link, ordered
from rmtcli.layouts import check_factors
from rmtcli.options import option

_MODULES: dict[str, type[nn.Module]] = {
    "relu": nn.ReLU,
    "gelu": nn.GELU,
    "silu": nn.SiLU,
    "tanh": nn.Tanh,
    "sigmoid": nn.Sigmoid,
    "identity": nn.Identity,
}


class Chain(nn.Module):
    """Linear layers one after another, named as in the checkpoint."""

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
        """Map inputs of shape (samples, …), flattened, to outputs of shape (samples, classes)."""
        values = inputs.flatten(1)
        for name in self.order[:-1]:
            values = self.activation(self.get_submodule(name)(values))
        last: torch.Tensor = self.get_submodule(self.order[-1])(values)
        return last


def infer_chain(checkpoint: Checkpoint, activation: str) -> Chain:
    """Infer a chain of linear layers from a checkpoint's names and shapes.

    Raises:
        EvaluationError: a tensor belongs to no linear layer, the widths of neighbours differ, the
            order of the layers is ambiguous, or two layers may be unrecorded factors.
        LayerError: factors that the manifest names are missing.
    """
    if checkpoint.about.activation == "":
        raise EvaluationError(
            f"{checkpoint.path}: its graph is not a plain chain of linear layers with one "
            "activation, and rmtcli does not run ONNX graphs: name the network with "
            f"{option('model', 'package.module:factory')}"
        )
    factored = checkpoint.manifest.factored if checkpoint.manifest else {}
    for module in factored:
        check_factors(checkpoint, module)
    layers: dict[str, nn.Module] = {}
    for link in _links(checkpoint, factored):
        first, _, bias = _ends(checkpoint, link.name, factored)
        dtype = torch.float64 if checkpoint.infos[first].dtype == "F64" else torch.float32
        biased = bias in checkpoint.infos
        layers[link.name] = nn.Linear(link.inputs, link.outputs, bias=biased, dtype=dtype)
    try:
        return Chain(layers, _MODULES[activation]())
    except KeyError as error:
        raise EvaluationError(
            f"{checkpoint.path}: no network can be inferred: a layer's name is not one that torch "
            f"allows ({error.args[0]}): name the network with "
            f"{option('model', 'package.module:factory')}"
        ) from None


def _links(checkpoint: Checkpoint, factored: Mapping[str, int]) -> Sequence[Link]:
    """The linear layers of a checkpoint, in the order in which they run.

    Raises:
        EvaluationError: they are not a chain, or their order is ambiguous.
    """
    links, used = [], set()
    for name, info in checkpoint.infos.items():
        if len(info.shape) != 2 or name in used or name.rpartition(".")[2] != "weight":
            continue
        module = module_of(name)
        module = module_of(module) if module_of(module) in factored else module
        first, last, bias = _ends(checkpoint, module, factored)
        used |= {first, last, bias, *pivots_of(module)}
        inputs, outputs = checkpoint.infos[first].shape[1], checkpoint.infos[last].shape[0]
        links.append(Link(module, inputs, outputs))
    chain = ordered(links, as_stored=checkpoint.as_stored)
    why = _why_no_chain(checkpoint, links, used, chain, factored)
    if why or not chain:
        raise EvaluationError(
            f"{checkpoint.path}: not a plain chain of linear layers ({why}): "
            f"name the network with {option('model', 'package.module:factory')}"
        )
    return chain


def _ends(checkpoint: Checkpoint, module: str, factored: Mapping[str, int]) -> tuple[str, str, str]:
    """Names of a layer's tensors whose shapes tell its inputs and outputs, and of its bias."""
    core, _, order = pivots_of(module)
    if module in factored and order in checkpoint.infos:
        return core, order, member(module, "bias")
    if module in factored:
        return factors_of(module)
    weight = member(module, "weight")
    return weight, weight, member(module, "bias")


def _why_no_chain(
    checkpoint: Checkpoint,
    links: Sequence[Link],
    used: Collection[str],
    chain: Sequence[Link] | None,
    factored: Mapping[str, int],
) -> str | None:
    """Why a checkpoint is not a chain of linear layers, in words; None if it is one."""
    if not links:
        return "it has no linear layers"
    other = next((name for name in checkpoint.infos if name not in used), None)
    if other is not None:
        return f"'{other}' belongs to no linear layer"
    for a, b in pairwise(links):
        parent = module_of(a.name)
        pair = a.name == member(parent, "0") and b.name == member(parent, "1")
        if pair and member(a.name, "bias") not in checkpoint.infos and parent not in factored:
            return f"'{a.name}' and '{b.name}' may be factors of one layer, but no record says so"
        if checkpoint.as_stored and a.outputs != b.inputs:
            return f"'{a.name}' gives {a.outputs} values and '{b.name}' takes {b.inputs}"
    if chain is None:
        return "a safetensors file keeps no order, and these names and widths do not determine one"
    return None
