"""The entries of a directory's configuration that give the widths of hidden layers."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from copy import deepcopy
from operator import attrgetter
from typing import Any, cast

import torch
from torch import nn

from rmtcli.checkpoint.names import module_of
from rmtcli.evaluation.pretrained import Pretrained
from rmtcli.layers import Block

#: Parts of names of entries that are None where a width follows from other entries.
_INNER = ("inner", "ffn", "intermediate")


def entries_of(model: Pretrained, blocks: Sequence[Block]) -> dict[str, list[Block]]:
    """The configuration's entries that are the widths of blocks and of nothing else.

    No name is looked up: the network is built again, without memory for its weights, from a
    configuration in which one entry is changed. The entry is that of some blocks if exactly the
    tensors around their hidden layers change their shape.

    Args:
        model: the network.
        blocks: its blocks.

    Returns:
        Blocks by the name of their entry; a dot leads into a part of the configuration. A block
        without an entry, or with one that other tensors share, is missing.
    """
    network = cast(Any, model.network)
    dense = shapes_of(type(network), network.config)
    modules = model.modules_of([module_of(name) for block in blocks for name in block.layers])
    tensors = [_tensors(block, modules, dense) for block in blocks]
    groups: dict[str, list[Block]] = {}
    for entry, units in _candidates(network.config, {block.units for block in blocks}):
        config = deepcopy(network.config)
        part, _, key = entry.rpartition(".")
        setattr(attrgetter(part)(config) if part else config, key, units // 2)
        try:
            narrow = shapes_of(type(network), config)
        # A class of transformers may raise anything for a configuration that makes no sense.
        except Exception:
            continue
        changed = {name for name, shape in dense.items() if narrow.get(name) != shape}
        own = [i for i, names in enumerate(tensors) if names and names <= changed]
        if own and changed == set[str]().union(*(tensors[i] for i in own)):
            groups[entry] = [blocks[i] for i in own]
    return groups


def resizable(model: Pretrained, blocks: Sequence[Block]) -> list[Block]:
    """The blocks whose layers are modules of their own, so that a loader can change their shapes.

    Experts that transformers joins are not.
    """
    network = cast(Any, model.network)
    dense = shapes_of(type(network), network.config)
    modules = model.modules_of([module_of(name) for block in blocks for name in block.layers])
    return [block for block in blocks if _tensors(block, modules, dense)]


def _tensors(block: Block, modules: Mapping[str, str], dense: Mapping[str, Any]) -> set[str]:
    """Names of the parameters around a hidden layer; empty if the network has other names."""
    names = set()
    for kind, layers in (("bias", block.writers), ("weight", block.layers)):
        for layer in layers:
            module = modules.get(module_of(layer), "").removeprefix("network.")
            name = f"{module}.{kind}"
            if name in dense:
                names.add(name)
            elif kind == "weight":
                return set()
    return names


def _candidates(config: Any, widths: set[int]) -> Iterator[tuple[str, int]]:
    """Entries that may be widths: those with a width as value, or None and with a fitting name."""
    for part in ("", *getattr(config, "sub_configs", ())):
        own = getattr(config, part, None) if part else config
        for key, value in () if own is None else own.to_dict().items():
            name = f"{part}.{key}" if part else key
            if type(value) is int and value in widths:
                yield name, value
            elif value is None and any(word in key for word in _INNER):
                yield from ((name, units) for units in sorted(widths))


def shapes_of(kind: type[nn.Module], config: Any) -> dict[str, tuple[int, ...]]:
    """The shapes of all parameters of a network, which takes no memory."""
    with torch.device("meta"):
        network = kind(config)
    return {name: tuple(p.shape) for name, p in network.named_parameters(remove_duplicate=False)}
