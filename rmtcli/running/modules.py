"""The modules of a network that hold the weights of a checkpoint's layers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import cast

import torch
from torch import Tensor, nn

from rmtcli.checkpoint import Checkpoint
from rmtcli.checkpoint.names import unit_of, weight_of
from rmtcli.evaluation.pretrained import Pretrained
from rmtcli.layers import Layer
from rmtcli.layouts.recurrent import put_in_steps
from rmtcli.layouts.split import is_plain_convolution
from rmtcli.layouts.wrapped import naming


def watchable(model: nn.Module, layers: Sequence[Layer]) -> nn.Module:
    """The model with a module for each matrix of its recurrent layers, if some are asked for."""
    if not any(layer.view.recurrent for layer in layers):
        return model
    return put_in_steps(model)


def modules_of(
    model: nn.Module, checkpoint: Checkpoint, layers: Sequence[Layer]
) -> Mapping[str, list[str]]:
    """The modules of the model that hold each layer's weight, by the layer's name.

    These are linear layers, convolutions without groups that compute what torch's do, the matrices
    of recurrent layers in a model that is :func:`watchable`, and tables of tokens with the linear
    layers that the model ties to them. A module that has several names is listed once.
    """
    names = [(layer.tensor, *layer.tied) for layer in layers]
    known = _by_unit(model, checkpoint, [unit_of(name) for group in names for name in group])
    modules = dict(model.named_modules(remove_duplicate=False))

    def holders(layer: Layer, group: Sequence[str]) -> list[str]:
        own = [known[unit] for unit in map(unit_of, group) if unit in known]
        if layer.view.table:
            own = _with_tied(modules, own)
        firsts: dict[int, str] = {}
        for name in own:
            if layer.view.table or not isinstance(modules[name], nn.Embedding):
                firsts.setdefault(id(modules[name]), name)
        return list(firsts.values())

    return {layer.name: holders(layer, group) for layer, group in zip(layers, names, strict=True)}


def _by_unit(model: nn.Module, checkpoint: Checkpoint, units: Sequence[str]) -> Mapping[str, str]:
    """The name of each unit's module in the model; units that it lacks are missing."""
    if isinstance(model, Pretrained):
        return model.modules_of(units)
    own = naming(model, checkpoint)
    watched = {
        name
        for name, module in model.named_modules(remove_duplicate=False)
        if isinstance(module, nn.Linear) or is_plain_convolution(module) or is_lookup(module)
    }
    pairs = ((unit, own(weight_of(unit))) for unit in units)
    return {
        unit: unit_of(name) for unit, name in pairs if name is not None and unit_of(name) in watched
    }


def _with_tied(modules: Mapping[str, nn.Module], own: Sequence[str]) -> list[str]:
    """A table's modules and all that the model ties to them; empty without a look-up."""
    if not any(is_lookup(modules[name]) for name in own):
        return []
    weights = {id(modules[name]._parameters["weight"]) for name in own}
    tied = [
        name
        for name, module in modules.items()
        if id(module._parameters.get("weight")) in weights
        and (is_lookup(module) or isinstance(module, nn.Linear))
    ]
    return [*own, *tied]


def is_lookup(module: nn.Module) -> bool:
    """Whether a module looks rows of a table up, which it may multiply by a number."""
    return isinstance(module, nn.Embedding) and module.max_norm is None


@torch.no_grad()
def scale_of(table: nn.Module) -> float:
    """The number by which a module multiplies the rows that it looks up."""
    weight = cast(Tensor, table.weight)
    row = weight.norm(dim=1).argmax()
    return float(table(row[None]).double().norm() / weight[row].double().norm())
