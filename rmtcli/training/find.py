"""The linear layers of a network: which may be pruned, and which shapes they have."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from rmtcli.checkpoint.names import factors_of, member, module_of
from rmtcli.errors import UsageError
from rmtcli.layers import Selection
from rmtcli.layouts.pivoted_module import PivotedModule
from rmtcli.layouts.split import SplitLinear, own_part
from rmtcli.training.layers import TrainedLayer


@torch.no_grad()
def adopt(model: nn.Module, state: Mapping[str, Tensor], prefix: str = "") -> None:
    """Give linear layers the shapes that they have in a state dict, so that it can be loaded.

    Args:
        model: the network, whose layers are replaced in place.
        state: a state dict of the network after it was pruned.
        prefix: prefix of the network's names in the state dict.
    """
    for layer in _all_layers(model):
        path = f"{prefix}{module_of(layer.name)}"
        right, _, _ = factors_of(path)
        if right in state and not layer.split:
            check_classes([layer])
            layer.split_empty(len(state[right]))
        for name, own in layer.module.named_parameters():
            shape = getattr(state.get(member(path, name)), "shape", own.shape)
            if shape != own.shape:  # a hidden layer that got narrower
                setattr(layer.module, name, nn.Parameter(own.new_zeros(shape)))
        if not layer.split:
            layer.module.out_features, layer.module.in_features = layer.module.weight.shape


def layers_in(model: nn.Module, selection: Selection) -> tuple[list[TrainedLayer], dict[str, str]]:
    """Return the linear layers that may be pruned, and why the others may not.

    The last linear layer and layers with few outputs are output heads.

    Args:
        model: the network.
        selection: which layers may be pruned.

    Returns:
        The layers in the network's order, and the reasons for all others by name.
    """
    layers = _all_layers(model)
    kept, others = (
        [],
        dict.fromkeys(_pivoted(model), "pivoted: run rmtcli densify to prune it again"),
    )
    users = Counter(id(p) for owner in model.modules() for p in owner._parameters.values())
    for layer in layers:
        if selection.leaves_out(layer.name):
            others[layer.name] = "left out by include or exclude"
        elif selection.names(layer.name):
            kept.append(layer)
        elif layer is layers[-1] or layer.shape[0] < selection.min_side:
            others[layer.name] = "output head"
        elif any(users[id(weight)] > 1 for weight in layer.weights):
            others[layer.name] = "tied to another module"
        elif not all(weight.requires_grad for weight in layer.weights):
            others[layer.name] = "frozen"
        else:
            kept.append(layer)
    return kept, others


def classes_of(model: nn.Module, selection: Selection) -> int:
    """Return the number of outputs of the last linear layer, or 1 if they are not classes.

    They are classes if there are fewer than ``selection.min_side``.
    """
    last = [module for module in model.modules() if isinstance(module, nn.Linear)][-1]
    return last.out_features if last.out_features < selection.min_side else 1


def _all_layers(model: nn.Module) -> list[TrainedLayer]:
    """Return every linear layer once, in the network's order."""
    layers: dict[int, TrainedLayer] = {}
    for parent, key, module, path in _linears(model):
        if id(module) in layers:
            layers[id(module)].parents.append((parent, key))
        else:
            layers[id(module)] = TrainedLayer(member(path, "weight"), [(parent, key)], module)
    return list(layers.values())


def _pivoted(model: nn.Module) -> list[str]:
    """Names of the weights in the pivoted layout."""
    return [
        member(path, "weight")
        for path, module in model.named_modules()
        if isinstance(module, PivotedModule)
    ]


def _linears(model: nn.Module) -> Iterator[tuple[nn.Module, str, nn.Linear | SplitLinear, str]]:
    """Yield (parent, key, module, path) of all linear layers but those inside a split layer."""
    splits = (SplitLinear, PivotedModule)
    inside = {id(x) for m in model.modules() if isinstance(m, splits) for x in m.children()}
    for path, module in model.named_modules(remove_duplicate=False):
        if path and isinstance(module, nn.Linear | SplitLinear) and id(module) not in inside:
            yield model.get_submodule(module_of(path)), path.rpartition(".")[2], module, path


def check_classes(layers: Iterable[TrainedLayer]) -> None:
    """Refuse layers that two linear maps cannot replace, because there is more to them.

    Raises:
        UsageError: there is such a layer.
    """
    for layer in layers:
        if not layer.split and own_part(layer.module):
            raise UsageError(
                f"{layer.name} is in a {type(layer.module).__name__} with "
                f"{own_part(layer.module)}, which splitting would lose: leave it out with "
                f"selection=Selection(exclude=['{layer.name}']), or take action='truncate'"
            )


def check_optimizer(optimizer: Optimizer, layers: Iterable[TrainedLayer]) -> None:
    """Reject an optimizer that does not hold the weights of all layers.

    Raises:
        UsageError: a layer's weight is not among the optimizer's parameters.
    """
    known = {id(p) for group in optimizer.param_groups for p in group["params"]}
    for layer in layers:
        if not {id(weight) for weight in layer.weights} <= known:
            raise UsageError(
                f"{layer.name} is not among the optimizer's parameters: give the pruner the "
                "optimizer that trains it, or leave the layer out"
            )
