"""The bytes of each tensor, before and after pruning."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import replace

from rmtcli.checkpoint import Checkpoint, Edited
from rmtcli.checkpoint.dtypes import TYPES
from rmtcli.planning import LayerPlan
from rmtcli.report.base import Tensor


def tensors_of(dense: Checkpoint, network: Checkpoint) -> tuple[Tensor, ...]:
    """Each tensor of a dense network, with the bytes of what takes its place.

    Args:
        dense: the dense network.
        network: the compressed one: the dense one with edits, or one with the same names.
    """
    origins = {name: name for name in network.distinct}
    edited = network
    while isinstance(edited, Edited):
        owners = {new: old for old, group in edited.edits.items() for new in group}
        origins = {name: owners.get(old, old) for name, old in origins.items()}
        edited = edited.source
    after = Counter[str]()
    for name, old in origins.items():
        after[old] += network.nbytes(name)
    return tuple(Tensor(name, dense.nbytes(name), after[name]) for name in dense.distinct)


def with_plans(tensors: Iterable[Tensor], plans: Iterable[LayerPlan]) -> tuple[Tensor, ...]:
    """Tensors with the bytes that plans would leave, where nothing is pruned yet."""
    saved = Counter[str]()
    for plan in plans:
        layer = plan.layer
        share = (layer.size * TYPES[layer.dtype].width * layer.copies - plan.bytes) // layer.copies
        for name in (layer.tensor, *layer.tied):
            saved[name] += share
    return tuple(replace(tensor, after=tensor.after - saved[tensor.name]) for tensor in tensors)
