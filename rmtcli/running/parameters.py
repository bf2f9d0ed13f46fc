"""The new tensors of a pruned checkpoint as parameters of its network."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from functools import partial
from typing import Any

import torch
from torch import nn

from rmtcli.arrays import FloatArray
from rmtcli.checkpoint import Edited
from rmtcli.checkpoint.names import member, module_of, unit_of
from rmtcli.evaluation.pretrained import Pretrained
from rmtcli.layouts.module import float64_of
from rmtcli.layouts.wrapped import naming


class NewParameters:
    """The parameters that hold the new tensors of a pruned network, whatever their layout.

    Tensors that are stored once under several names become one parameter.

    Args:
        dense: the dense network.
        model: the pruned network, whose modules are changed to that end.
        network: its checkpoint.
    """

    def __init__(self, dense: nn.Module, model: nn.Module, network: Edited) -> None:
        keys, state = keys_of(dense, model, network), model.state_dict(keep_vars=True)
        self._units: dict[str, list[nn.Parameter]] = {}
        self._names: dict[int, list[str]] = {}
        firsts: dict[int, nn.Parameter] = {}
        duplicates: dict[nn.Parameter, nn.Parameter] = {}
        tensors = [
            (unit_of(old), name, id(stored))
            for old, group in network.edits.items()
            for name, stored in group.items()
        ]
        for _, name, stored in tensors:
            value = state.get(keys.get(name, ""))
            if isinstance(value, nn.Parameter):
                first = firsts.setdefault(stored, value)
                if first is not value:
                    duplicates[value] = first
        for unit, name, stored in tensors:  # a sibling's module may lack the map that it shares
            if stored in firsts:
                self._units.setdefault(unit, []).append(firsts[stored])
                self._names.setdefault(id(firsts[stored]), []).append(name)
        for module in model.modules():
            for key, parameter in module._parameters.items():
                if parameter is not None and parameter in duplicates:
                    module._parameters[key] = duplicates[parameter]

    @property
    def trained(self) -> list[tuple[nn.Parameter, float]]:
        """Each parameter once, with its scale: the root mean square that it is measured by.

        A matrix has its own. A bias has that of the smallest matrix beside it; a vector without a
        matrix, such as those of a BatchNorm, that of the largest vector.
        """
        return self.scaled(p for group in self._units.values() for p in group)

    def scaled(self, some: Iterable[nn.Parameter]) -> list[tuple[nn.Parameter, float]]:
        """Some of the parameters as :attr:`trained` has them."""
        wanted, scales = set(some), dict[nn.Parameter, float]()
        for parameters in self._units.values():
            sizes = {p: scale_of(p) for p in parameters if p in wanted}
            if not sizes:
                continue
            matrices = [size for p, size in sizes.items() if p.ndim > 1 and p.numel()]
            own = min(matrices) if matrices else max(sizes.values())
            for p, size in sizes.items():
                if p.numel():
                    scales.setdefault(p, size if p.ndim > 1 else own)
        return list(scales.items())

    @property
    def by_name(self) -> Mapping[str, nn.Parameter]:
        """The parameters, by the names of the checkpoint."""
        every = (parameter for group in self._units.values() for parameter in group)
        return {name: p for p in every for name in self._names[id(p)]}

    @property
    def values(self) -> Mapping[str, FloatArray]:
        """The parameters' values, by the names of the checkpoint."""
        return dict(self._values())

    def _values(self) -> Iterator[tuple[str, FloatArray]]:
        for parameters in self._units.values():
            for parameter in parameters:
                value = float64_of(parameter)
                yield from ((name, value) for name in self._names[id(parameter)])


def scale_of(parameter: nn.Parameter) -> float:
    """The root mean square of a parameter."""
    return float(parameter.detach().double().square().mean().sqrt())


def keys_of(dense: nn.Module, model: nn.Module, network: Edited) -> Mapping[str, str]:
    """The names that new tensors have in a network's state dict, by their names in its checkpoint.

    Args:
        dense: the dense network, in which transformers finds every layer by its name.
        model: the pruned network, in which it finds those that are not split.
        network: its checkpoint. Joined experts of both networks are separated.
    """
    names = [(old, new) for old, group in network.edits.items() for new in group]
    if not (isinstance(model, Pretrained) and isinstance(dense, Pretrained)):
        own = naming(model, network)
        return {new: key for _, new in names if (key := own(new)) is not None}
    units = {module_of(old) for old, _ in names}
    modules = {**model.modules_of(units), **dense.modules_of(units)}
    return {
        new: member(modules[unit], new.removeprefix(f"{unit}."))
        for old, new in names
        if (unit := module_of(old)) in modules
    }


def keep_padding(model: nn.Module) -> None:
    """Give the rows of padding no gradient, also from heads that are tied to their tables."""
    for module in model.modules():
        if not isinstance(module, nn.Embedding) or module.padding_idx is None:
            continue
        weight: Any = module.weight.requires_grad_(True)
        others = torch.ones_like(weight[:, :1])
        others[module.padding_idx] = 0
        weight.register_hook(partial(torch.mul, others))


@torch.no_grad()
def widen(model: nn.Module) -> None:
    """Make a network in half precision, which is too coarse for training, one in float32."""
    if next(model.parameters()).dtype in (torch.float16, torch.bfloat16):
        model.float()
