"""Modules around narrower hidden layers, in the shapes of their checkpoint."""

from __future__ import annotations

from collections.abc import Mapping
from typing import cast

import torch
from torch import Tensor, nn

from rmtcli.checkpoint import Checkpoint
from rmtcli.checkpoint.names import member
from rmtcli.errors import CheckpointError
from rmtcli.options import option

#: Attributes that repeat the shape of a module's first tensor, with the side that they repeat.
_SIZES: Mapping[str, Mapping[str, int]] = {
    "Linear": {"out_features": 0, "in_features": 1},
    "Conv1D": {"nx": 0, "nf": 1},
    "PReLU": {"num_parameters": 0},
    "_BatchNorm": {"num_features": 0},
}


def resize(model: nn.Module, checkpoint: Checkpoint, prefix: str) -> None:
    """Give modules around hidden layers that rmtcli made narrower the shapes of the checkpoint.

    Without rmtcli's record nothing is resized: a file of another network must not fit.

    Args:
        model: the dense module.
        checkpoint: the weights.
        prefix: prefix of the module's names in the checkpoint.

    Raises:
        CheckpointError: a module of a kind whose shape cannot be changed.
    """
    if checkpoint.manifest is None or not checkpoint.manifest.narrowed:
        return
    for name, module in model.named_modules():
        own = {**module._parameters, **module._buffers}
        stored = {key: checkpoint.infos.get(f"{prefix}{member(name, key)}") for key in own}
        changed = {
            key: info.shape
            for key, info in stored.items()
            if info is not None and own[key] is not None and own[key].shape != info.shape
        }
        if not changed:
            continue
        kinds = (kind.__name__ for kind in type(module).__mro__ if kind.__name__ in _SIZES)
        sizes = _SIZES.get(next(kinds, ""))
        if sizes is None:
            raise CheckpointError(
                f"{checkpoint.path}: '{name}' is a {type(module).__name__}, which cannot be made "
                f"narrower: leave its layer out with {option('exclude')} when you prune"
            )
        for key, shape in changed.items():
            _reshape(module, key, cast(Tensor, own[key]), shape)
        for attribute, side in sizes.items():
            setattr(module, attribute, next(iter(changed.values()))[side])


def _reshape(module: nn.Module, key: str, old: Tensor, shape: tuple[int, ...]) -> None:
    """Replace a tensor of a module with an empty one of another shape."""
    made = torch.empty(shape, dtype=old.dtype, device=old.device)
    if isinstance(old, nn.Parameter):
        setattr(module, key, nn.Parameter(made, requires_grad=old.requires_grad))
    else:
        setattr(module, key, made)
