"""New tensors in a module that shares all others with the network in memory."""

from __future__ import annotations

from torch import nn

from rmtcli.checkpoint import Edited
from rmtcli.layouts.copies import named, put_values
from rmtcli.layouts.module import split
from rmtcli.layouts.resize import resize


def install(model: nn.Module, checkpoint: Edited) -> None:
    """Put the new tensors of an edited network into a module that holds the network's own.

    Modules are split, or get other shapes, as in :func:`~rmtcli.layouts.module.load`. New tensors
    become new parameters, and all others stay the parameters that they are.

    Args:
        model: the dense module, which is changed.
        checkpoint: the module's own tensors, some of them replaced.

    Raises:
        CheckpointError: a module cannot be split or resized.
    """
    before = named(model)
    kept = set(map(id, before.values()))
    frozen = {
        new
        for old, group in checkpoint.edits.items()
        if old in before and not before[old].requires_grad
        for new in group
    }
    split(model, checkpoint, "")
    resize(model, checkpoint, "")
    new = {name for group in checkpoint.edits.values() for name in group}
    after = named(model)
    for name in checkpoint.infos:
        if name in after and id(after[name]) not in kept:
            new.add(name)  # of a module that was made for others
    put_values(model, checkpoint, new, frozen=frozen)
