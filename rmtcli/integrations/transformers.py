"""Makes transformers open the directories that rmtcli writes: importing it is enough.

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
    places,
    register,
)

__all__ = [
    "FactoredExperts",
    "FactoredLinear",
    "RmtcliConfig",
    "RmtcliQuantizer",
    "modules_of",
    "register",
]

register()


def modules_of(model: nn.Module, names: Collection[str]) -> dict[str, str]:
    """Where a checkpoint's layers are in a model of transformers.

    Experts that transformers joins are taken apart first, in place: only then is there a module
    for each layer.

    Args:
        model: a model with its weights.
        names: layers by their names in the dense checkpoint.

    Returns:
        Module by layer; layers that the model was built without are missing.
    """
    found = places(model, names)
    for module, leaves in {(place.module, place.leaves) for place in found.values()}:
        joined = model.get_submodule(module)
        if leaves and not isinstance(joined, FactoredExperts):
            parent, _, child = module.rpartition(".")
            setattr(model.get_submodule(parent), child, _apart(joined, leaves))
    return {name: place.full(name) for name, place in found.items()}


@torch.no_grad()
def _apart(joined: Any, leaves: Collection[str]) -> FactoredExperts:
    """Experts as single maps, whose weights are parts of the joined ones."""
    experts = FactoredExperts(joined, leaves, {})
    for index, expert in enumerate(experts.children()):
        gate, up = joined.gate_up_proj[index].chunk(2)
        for leaf, weight in zip(leaves, (gate, up, joined.down_proj[index]), strict=True):
            getattr(expert, leaf).weight = nn.Parameter(weight, requires_grad=False)
    return experts
