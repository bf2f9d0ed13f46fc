"""Load checkpoints, factored or not, into torch modules."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from torch import Tensor, nn

from rmtcli.arrays import FloatArray
from rmtcli.checkpoint import Checkpoint, open_checkpoint
from rmtcli.checkpoint.names import member
from rmtcli.checkpoint.torch.file import to_torch
from rmtcli.errors import CheckpointError
from rmtcli.layouts.edits import recognised
from rmtcli.layouts.pivoted_module import PivotedModule
from rmtcli.layouts.split import own_part
from rmtcli.layouts.wrapped import prefix_of, unwrapped


def load(model: nn.Module, source: str | Path | Checkpoint, *, key: str | None = None) -> nn.Module:
    """Load a checkpoint, factored or not, into a plain module.

    Every ``nn.Linear`` or convolution that the file holds as two factors is replaced, in place, by
    an ``nn.Sequential`` of two modules, and one in the pivoted layout by a ``PivotedModule``; then
    all parameters are loaded. Layers that share a right factor share the first of the two modules.
    Names that the module ties to others may be missing
    from the file. Names in the file may have a wrapper's prefix (``module.``, ``_orig_mod.``,
    Lightning's ``model.``) that the module's names lack; then tensors without it are ignored.
    Wrappers' parts inside names (``_checkpoint_wrapped_module``) do not count either.

    Args:
        model: the dense module.
        source: a file, or an open checkpoint.
        key: which state dict, where a torch file holds several, such as ``ema`` or
            ``state.generator``.

    Returns:
        ``model``.

    Raises:
        CheckpointError: a parameter is missing from the file, left over, or of another shape, or
            several prefixes fit.
    """
    checkpoint = source if isinstance(source, Checkpoint) else open_checkpoint(source, key=key)
    checkpoint = unwrapped(model, checkpoint)
    prefix = prefix_of(model, checkpoint)
    _split(model, checkpoint, prefix)
    state = {
        name.removeprefix(prefix): to_torch(checkpoint.raw(name), name)
        for name in checkpoint.infos
        if name.startswith(prefix)
    }
    _complete(model, state)
    try:
        model.load_state_dict(state)
    except RuntimeError as error:
        # torch lists every mismatch on a line of its own; the first one is reported.
        reasons = [line.strip() for line in str(error).splitlines()[1:]] or [str(error)]
        raise CheckpointError(
            f"{checkpoint.path}: does not fit {type(model).__name__}: {reasons[0]}"
        ) from None
    return model


def _split(model: nn.Module, checkpoint: Checkpoint, prefix: str) -> None:
    """Replace the modules whose weights the checkpoint holds in a layout that splits them."""
    names = checkpoint.infos.keys()
    split: dict[int, nn.Module] = {}  # a module under several names stays one module
    replaced: dict[str, Any] = {}
    for name, module in list(model.named_modules(remove_duplicate=False)):
        full = f"{prefix}{name}" if name else prefix.rstrip(".")
        layout = None if member(full, "weight") in names else recognised(checkpoint, full)
        if layout is None or "weight" not in module._parameters:
            continue
        if not name:
            raise CheckpointError(
                f"{checkpoint.path}: a bare {type(module).__name__} cannot be split in place: "
                "wrap it in a module, or run rmtcli densify"
            )
        if id(module) not in split:
            made = layout.split(module, checkpoint, full)
            if made is None:
                raise CheckpointError(
                    f"{checkpoint.path}: '{name}' is a {_words(module)}, which cannot be split: "
                    f"run rmtcli densify, or prune with --exclude '{member(full, 'weight')}'"
                )
            split[id(module)] = made
        parent, _, child = name.rpartition(".")
        setattr(model.get_submodule(parent), child, split[id(module)])
        replaced[full] = split[id(module)]
    shared = checkpoint.manifest.shared if checkpoint.manifest else {}
    for full, first in shared.items():
        if full in replaced and first in replaced:
            _share(replaced[full], replaced[first])


def _share(module: Any, sibling: Any) -> None:
    """Let a split module use the right factor of a sibling, or its pivot rows."""
    if isinstance(module, PivotedModule):
        module.pivot = sibling.pivot
    else:
        module[0] = sibling[0]


def _words(module: nn.Module) -> str:
    groups = getattr(module, "groups", 1)
    name = type(module).__name__
    if own_part(module):
        return f"{name} with {own_part(module)}"
    return name if groups == 1 else f"{name} in {groups} groups"


def _complete(model: nn.Module, state: dict[str, Tensor]) -> None:
    """Add names that are missing from the file, if the module ties them to one that is there."""
    own = model.state_dict(keep_vars=True)
    held = {id(own[name]): name for name in state if name in own}
    for name, value in own.items():
        if name not in state and id(value) in held:
            state[name] = state[held[id(value)]]


def float64_of(tensor: Tensor) -> FloatArray:
    """A tensor's values as an array; the tensor may have any floating type and device."""
    return np.asarray(tensor.detach().double().cpu().numpy(), np.float64)
