"""Factored checkpoints inside torch modules."""

from __future__ import annotations

from pathlib import Path

from torch import nn

from rmtcli.checkpoint import Checkpoint, open_checkpoint
from rmtcli.checkpoint.torch_file import to_torch
from rmtcli.errors import CheckpointError

#: What DataParallel, torch.compile and Lightning put before a module's names.
_WRAPPERS = {"module", "_orig_mod", "model", ""}


def load(model: nn.Module, source: str | Path | Checkpoint) -> nn.Module:
    """Put a checkpoint, factored or not, into a plain module.

    Every ``nn.Linear`` that the file holds as two factors is replaced, in place, by
    ``nn.Sequential(Linear(in, r, bias=False), Linear(r, out))``; then all parameters are loaded.
    Names in the file may carry a wrapper's prefix (``module.``, ``_orig_mod.``, Lightning's
    ``model.``) that the module lacks. The file's other tensors stay unread only where such a
    prefix sets them apart.

    Args:
        model: the dense module.
        source: a file, or a checkpoint already open.

    Returns:
        The same module.

    Raises:
        CheckpointError: a parameter is missing from the file, left over, or of another shape, or
            several prefixes fit.
    """
    checkpoint = source if isinstance(source, Checkpoint) else open_checkpoint(source)
    names = set(checkpoint.infos)
    prefix = _prefix(model, checkpoint)
    for name, module in list(model.named_modules()):
        key = f"{prefix}{name}." if name else prefix
        ends = f"{key}0.weight", f"{key}1.weight"
        if isinstance(module, nn.Linear) and f"{key}weight" not in names and names.issuperset(ends):
            rank = checkpoint.infos[ends[0]].shape[0]
            if not name:
                raise CheckpointError(
                    f"{checkpoint.path}: a bare nn.Linear cannot be split in place: "
                    "wrap it in a module, or run rmtcli densify"
                )
            parent, _, child = name.rpartition(".")
            setattr(model.get_submodule(parent), child, split_linear(module, rank))
    state = {
        name.removeprefix(prefix): to_torch(checkpoint.raw(name))
        for name in checkpoint.infos
        if name.startswith(prefix)
    }
    try:
        model.load_state_dict(state)
    except RuntimeError as error:
        # torch lists every mismatch on a line of its own; the first says enough.
        reasons = [line.strip() for line in str(error).splitlines()[1:]] or [str(error)]
        raise CheckpointError(
            f"{checkpoint.path}: does not fit {type(model).__name__}: {reasons[0]}"
        ) from None
    return model


def split_linear(layer: nn.Linear, rank: int) -> nn.Sequential:
    """Two linear maps of the given rank, not yet filled, on the layer's device and type."""
    weight = layer.weight
    place = {"device": weight.device, "dtype": weight.dtype}
    right = nn.Linear(layer.in_features, rank, bias=False, **place)
    left = nn.Linear(rank, layer.out_features, bias=layer.bias is not None, **place)
    return nn.Sequential(right, left).train(layer.training)


def _prefix(model: nn.Module, checkpoint: Checkpoint) -> str:
    """The prefix under which the file holds the model's parameters: none, or the only one.

    Raises:
        CheckpointError: several fit, such as a student's and a teacher's.
    """
    first = next(iter(model.state_dict()), "")
    module, _, leaf = first.rpartition(".")
    ends = (first, f"{module}.0.{leaf}" if module else f"0.{leaf}")
    found = {
        name.removesuffix(end)
        for name in checkpoint.infos
        for end in ends
        if name == end or name.endswith(f".{end}")
    }
    wrappers = {prefix for prefix in found if set(prefix.split(".")) <= _WRAPPERS}
    if "" in found or not found:
        return ""
    if len(found) > 1 and len(wrappers) != 1:
        raise CheckpointError(
            f"{checkpoint.path}: holds '{first}' of {type(model).__name__} under several names: "
            f"{', '.join(sorted(prefix + first for prefix in found))}"
        )
    return (wrappers if len(found) > 1 else found).pop()
