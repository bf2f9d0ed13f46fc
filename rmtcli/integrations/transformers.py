"""Importing this module lets transformers open the directories that rmtcli writes.

>>> import rmtcli.integrations.transformers  # doctest: +SKIP
>>> model = transformers.AutoModel.from_pretrained("small")  # doctest: +SKIP
"""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

import torch
from torch import nn

from rmtcli.integrations.rmtcli_loading import (
    FactoredExperts,
    FactoredLinear,
    RmtcliConfig,
    RmtcliQuantizer,
    locate_layers,
    register,
)
from rmtcli.integrations.rmtcli_loading import (
    locate_tensors as tensors_of,
)

__all__ = [
    "FactoredExperts",
    "FactoredLinear",
    "RmtcliConfig",
    "RmtcliQuantizer",
    "modules_of",
    "register",
    "tensors_of",
]

register()


def modules_of(model: nn.Module, names: Collection[str]) -> dict[str, str]:
    """Find the modules of a checkpoint's layers in a transformers model.

    Experts that transformers joins are separated first, in place, so that each layer has a module
    of its own.

    Args:
        model: a model whose weights are loaded.
        names: names of the layers in the dense checkpoint.

    Returns:
        Module names by layer name; layers that the model was built without are missing.
    """
    locations = locate_layers(model, names)
    for module, leaves in {(item.module, item.leaves) for item in locations.values()}:
        joined = model.get_submodule(module)
        if leaves and not isinstance(joined, FactoredExperts):
            parent, _, child = module.rpartition(".")
            setattr(model.get_submodule(parent), child, _separated(joined, leaves))
    return {name: location.full(name) for name, location in locations.items()}


@torch.no_grad()
def _separated(joined: Any, leaves: Collection[str]) -> FactoredExperts:
    """Experts as separate linear maps, whose weights are views of the joined ones."""
    experts = FactoredExperts(joined, leaves, lambda *_: None)
    for index, expert in enumerate(experts.children()):
        gate, up = joined.gate_up_proj[index].chunk(2)
        for leaf, weight in zip(leaves, (gate, up, joined.down_proj[index]), strict=True):
            getattr(expert, leaf).weight = nn.Parameter(weight, requires_grad=False)
    return experts
