"""Load checkpoints, factored or not, into torch modules."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
from torch import Tensor, nn

from rmtcli.arrays import FloatArray
from rmtcli.checkpoint import Checkpoint, open_checkpoint
from rmtcli.checkpoint.names import member, unit_of, weight_of
from rmtcli.checkpoint.torch.file import to_torch
from rmtcli.checkpoint.torch.memory import core_of, is_sentence_transformer, put_record
from rmtcli.errors import CheckpointError, EvaluationError
from rmtcli.layouts.base import Layout
from rmtcli.layouts.copies import keep_shell, shell_of
from rmtcli.layouts.edits import recognised
from rmtcli.layouts.packed_module import keep_packed
from rmtcli.layouts.pivoted_module import PivotedModule
from rmtcli.layouts.recurrent import in_steps, linear_of, matrices_of
from rmtcli.layouts.resize import resize
from rmtcli.layouts.split import keep_hooks, own_part
from rmtcli.layouts.tables import Maps, maps_of, with_maps
from rmtcli.layouts.wrapped import naming, prefix_of, unwrapped
from rmtcli.options import option


def load(
    model: nn.Module,
    source: str | Path | Checkpoint,
    *,
    key: str | None = None,
    packed: bool = False,
) -> nn.Module:
    """Load a checkpoint, factored or not, into a plain module.

    Every ``nn.Linear`` or convolution that the file holds as two factors is replaced, in place, by
    an ``nn.Sequential`` of two modules, and one in the pivoted layout by a ``PivotedModule``; a
    recurrent layer with such matrices by a module that runs step by step. Modules around hidden
    layers that rmtcli made narrower get the shapes of the file. Then all parameters are loaded.
    Layers that share a right factor share the first of the two modules. An ``nn.Embedding`` becomes
    a smaller one and a linear map, which output heads that are tied to it use too. Names that the
    module ties to others may be missing from the file. Names in the file may have a wrapper's
    prefix (``module.``, ``_orig_mod.``, Lightning's ``model.``) that the module's names lack; then
    tensors without it are ignored.
    Wrappers' parts inside names (``_checkpoint_wrapped_module``) do not count either.

    Args:
        model: the dense module. Of a SentenceTransformer, the network in it, if the file has the
            network's names.
        source: a file, or an open checkpoint.
        key: which state dict, where a torch file holds several, such as ``ema`` or
            ``state.generator``.
        packed: whether weights that the file holds in few bits stay so in memory, as
            parametrizations of torch, and are computed in each forward pass: slower, and not to be
            trained or saved. By default they are computed once.

    Returns:
        ``model``.

    Raises:
        CheckpointError: a parameter is missing from the file, left over, or of another shape, or
            several prefixes fit.
    """
    checkpoint = source if isinstance(source, Checkpoint) else open_checkpoint(source, key=key)
    core = core_of(model) if is_sentence_transformer(model) else model
    if core is not model and checkpoint.infos.keys().isdisjoint(model.state_dict()):
        load(core, checkpoint, packed=packed)
        return model
    shell = None
    if checkpoint.manifest is not None and checkpoint.manifest.factored:
        with suppress(EvaluationError):  # densify will need the class
            shell = shell_of(model)
    if ignored := fill(model, checkpoint):
        names = ", ".join(f'"{name}"' for name in ignored)
        raise _misfit(model, checkpoint, f"Unexpected key(s) in state_dict: {names}.")
    if packed:
        return keep_packed(model, checkpoint, naming(model, checkpoint))
    if not prefix_of(model, checkpoint):
        put_record(model, checkpoint.manifest)
        keep_shell(model, shell)
    return model


def fill(model: nn.Module, source: Checkpoint) -> tuple[str, ...]:
    """Load a checkpoint as :func:`load` does, also where the module has no use for some tensors.

    Returns:
        The names of these tensors, as the module would have them.

    Raises:
        CheckpointError: a parameter is missing from the file, whatever the module's class accepts;
            one is of another shape, or several prefixes fit.
    """
    checkpoint = unwrapped(model, source)
    prefix = prefix_of(model, checkpoint)
    split(model, checkpoint, prefix)
    resize(model, checkpoint, prefix)
    state = {
        name.removeprefix(prefix): to_torch(checkpoint.raw(name), name)
        for name in checkpoint.infos
        if name.startswith(prefix)
    }
    _complete(model, state)
    try:
        # A class with a way of its own may not know 'strict', or need it as it is.
        done = model.load_state_dict(state, **({} if loads_itself(model) else {"strict": False}))
    except RuntimeError as error:
        # torch lists every mismatch on a line of its own; the first one is reported.
        reasons = [line.strip() for line in str(error).splitlines()[1:]] or [str(error)]
        raise _misfit(model, checkpoint, reasons[0]) from None
    own = model.state_dict().keys()
    missing = getattr(done, "missing_keys", own - state.keys())
    if missing:
        names = ", ".join(f'"{name}"' for name in sorted(missing))
        raise _misfit(model, checkpoint, f"Missing key(s) in state_dict: {names}.")
    return tuple(getattr(done, "unexpected_keys", ()))


def loads_itself(model: nn.Module) -> bool:
    """Whether a module's class loads weights in a way of its own, which may not be strict."""
    return type(model).load_state_dict is not nn.Module.load_state_dict


def _misfit(model: nn.Module, checkpoint: Checkpoint, reason: str) -> CheckpointError:
    """The error of a file whose tensors are not those of a module."""
    return CheckpointError(f"{checkpoint.path}: does not fit {type(model).__name__}: {reason}")


def split(model: nn.Module, checkpoint: Checkpoint, prefix: str) -> None:
    """Replace the modules whose weights the checkpoint holds in a layout that splits them.

    Args:
        model: the network, which is changed.
        checkpoint: the weights.
        prefix: prefix of the module's names in the checkpoint.

    Raises:
        CheckpointError: a module cannot be split.
    """
    split: dict[int, nn.Module] = {}  # a module under several names stays one module
    replaced: dict[str, Any] = {}
    dense = dict(model.named_modules(remove_duplicate=False))
    for name, module in dense.items():
        full = f"{prefix}{name}" if name else prefix.rstrip(".")
        layouts = _layouts(module, checkpoint, full)
        if not layouts:
            continue
        if not name:
            raise CheckpointError(
                f"{checkpoint.path}: a bare {type(module).__name__} cannot be split in place: "
                "wrap it in a module, or run rmtcli densify"
            )
        if id(module) not in split:
            split[id(module)] = _in_place_of(module, name, checkpoint, full, layouts)
            keep_hooks(module, split[id(module)])
        _put(model, name, split[id(module)])
        for own in layouts:
            replaced[_at(full, own)] = split[id(module)].get_submodule(own)
    _tie_tables(model, checkpoint, prefix, dense, split)
    shared = checkpoint.manifest.shared if checkpoint.manifest else {}
    for full, first in shared.items():
        if full in replaced and first in replaced:
            _share(replaced[full], replaced[first])


def _tie_tables(
    model: nn.Module,
    checkpoint: Checkpoint,
    prefix: str,
    dense: Mapping[str, nn.Module],
    split: Mapping[int, nn.Module],
) -> None:
    """Let all modules that are tied to a split table use its factors.

    Args:
        model: the network.
        checkpoint: the file; a module whose weight it holds is left alone.
        prefix: the prefix of the model's names in the file.
        dense: the modules before any was replaced, by name.
        split: what has taken the place of modules, by their id.
    """
    first: dict[int, Maps] = {}
    for module in dense.values():
        maps = maps_of(split.get(id(module), module))
        if maps is not None:
            first.setdefault(id(module._parameters.get("weight")), maps)
    tied: dict[int, nn.Module | None] = {}
    for name, module in dense.items():
        maps = first.get(id(module._parameters.get("weight")))
        if maps is None or f"{prefix}{member(name, 'weight')}" in checkpoint.infos:
            continue
        new = tied.setdefault(id(module), with_maps(module, maps))
        if new is not None:
            _put(model, name, new)


def _put(model: nn.Module, name: str, module: nn.Module) -> None:
    """Replace the module of this name."""
    parent, _, child = name.rpartition(".")
    setattr(model.get_submodule(parent), child, module)


def _share(module: Any, sibling: Any) -> None:
    """Let a split module use the right factor of a sibling, or its pivot rows."""
    if isinstance(module, PivotedModule):
        module.pivot = sibling.pivot
    else:
        module[0] = sibling[0]


def _layouts(module: nn.Module, checkpoint: Checkpoint, full: str) -> dict[str, Layout]:
    """How a checkpoint holds those of a module's matrices that it holds split.

    The names are those of a recurrent layer's matrices, and empty for any other module.

    Args:
        module: the module.
        checkpoint: the file.
        full: the module's name in the file.
    """
    weights = [name for name in module._parameters if weight_of(unit_of(name)) == name]
    layouts = {}
    for weight in weights:
        unit = unit_of(weight)
        layout = recognised(checkpoint, _at(full, unit))
        if layout is not None and member(full, weight) not in checkpoint.infos:
            layouts[unit] = layout
    return layouts


def _in_place_of(
    module: nn.Module,
    name: str,
    checkpoint: Checkpoint,
    full: str,
    layouts: Mapping[str, Layout],
) -> nn.Module:
    """The module that takes the place of one.

    Raises:
        CheckpointError: none can.
    """
    recurrent, parts = matrices_of(module), {}
    for own, layout in layouts.items():
        whole = module if not own else linear_of(module, own) if own in recurrent else None
        part = None if whole is None else layout.split(whole, checkpoint, _at(full, own))
        if part is None:
            raise CheckpointError(
                f"{checkpoint.path}: '{name}' is a {_words(module)}, which cannot be split: run "
                f"rmtcli densify, or prune with {option('exclude', weight_of(_at(full, own)))}"
            )
        parts[own] = part
    return in_steps(module, parts) if recurrent else parts[""]


def _at(module: str, unit: str) -> str:
    """The name of a unit of a module: the module itself, or one of its matrices."""
    return member(module, unit) if unit else module


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
