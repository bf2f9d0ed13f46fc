"""Factored checkpoints inside torch modules."""

from __future__ import annotations

from pathlib import Path
from typing import Any, cast

import numpy as np
from torch import Tensor, nn

from rmtcli.arrays import FloatArray
from rmtcli.checkpoint import Checkpoint, open_checkpoint
from rmtcli.checkpoint.names import factors_of, member, module_of
from rmtcli.checkpoint.torch.file import to_torch
from rmtcli.errors import CheckpointError

#: What DataParallel, torch.compile, Lightning and FSDP put before a module's names.
_WRAPPERS = {"module", "_orig_mod", "model", "_fsdp_wrapped_module", ""}


def load(model: nn.Module, source: str | Path | Checkpoint) -> nn.Module:
    """Put a checkpoint, factored or not, into a plain module.

    Every ``nn.Linear`` or convolution that the file holds as two factors is replaced, in place, by
    an ``nn.Sequential`` of two; then all parameters are loaded. The first of the two is one module
    for layers that share it. Names that the module ties to others may be missing from the file.
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
    prefix = prefix_of(model, checkpoint)
    _split(model, checkpoint, prefix)
    state = {
        name.removeprefix(prefix): to_torch(checkpoint.raw(name))
        for name in checkpoint.infos
        if name.startswith(prefix)
    }
    _complete(model, state)
    try:
        model.load_state_dict(state)
    except RuntimeError as error:
        # torch lists every mismatch on a line of its own; the first says enough.
        reasons = [line.strip() for line in str(error).splitlines()[1:]] or [str(error)]
        raise CheckpointError(
            f"{checkpoint.path}: does not fit {type(model).__name__}: {reasons[0]}"
        ) from None
    return model


def _split(model: nn.Module, checkpoint: Checkpoint, prefix: str) -> None:
    """Replace the modules whose weights the checkpoint holds as factors."""
    names = checkpoint.infos.keys()
    split: dict[int, nn.Module] = {}  # a module under several names stays one module
    placed: dict[str, Any] = {}
    for name, module in list(model.named_modules(remove_duplicate=False)):
        full = f"{prefix}{name}" if name else prefix.rstrip(".")
        right, left, bias = factors_of(full)
        factored = member(full, "weight") not in names and {right, left} <= names
        if not factored or "weight" not in module._parameters:
            continue
        if not name:
            raise CheckpointError(
                f"{checkpoint.path}: a bare {type(module).__name__} cannot be split in place: "
                "wrap it in a module, or run rmtcli densify"
            )
        if id(module) not in split:
            rank = checkpoint.infos[right].shape[0]
            made = split_module(module, rank, bias=bias in names)
            if made is None:
                raise CheckpointError(
                    f"{checkpoint.path}: '{name}' is a {_words(module)}, which cannot be split: "
                    "run rmtcli densify, or prune without this layer"
                )
            split[id(module)] = made
        parent, _, child = name.rpartition(".")
        setattr(model.get_submodule(parent), child, split[id(module)])
        placed[full] = split[id(module)]
    shared = checkpoint.manifest.shared if checkpoint.manifest else {}
    for full, first in shared.items():
        if full in placed and first in placed:
            placed[full][0] = placed[first][0]


def split_module(module: nn.Module, rank: int, *, bias: bool) -> nn.Module | None:
    """Two modules of this rank in place of one; None where that is not possible."""
    if isinstance(module, nn.Linear):
        return SplitLinear(module, rank, bias=bias)
    if type(module).__name__ == "Conv1D" and cast(Tensor, module.weight).ndim == 2:
        inputs, outputs = cast(Tensor, module.weight).shape  # transformers': stored as in × out
        place = {"device": "meta", "dtype": cast(Tensor, module.weight).dtype}
        linear = nn.Linear(inputs, outputs, bias=bias, **place)
        made = SplitLinear(linear, rank, bias=bias)
        return made.to_empty(device=cast(Tensor, module.weight).device).train(module.training)
    if isinstance(module, nn.Conv1d | nn.Conv2d | nn.Conv3d) and module.groups == 1:
        return split_convolution(module, rank, bias=bias)
    return None


def split_convolution(
    module: nn.Conv1d | nn.Conv2d | nn.Conv3d, rank: int, *, bias: bool
) -> nn.Sequential:
    """A convolution with the layer's kernel to ``rank`` channels, and one with a single place."""
    kind = type(module)
    place: dict[str, Any] = {"device": module.weight.device, "dtype": module.weight.dtype}
    first = kind(
        module.in_channels,
        rank,
        cast(Any, module.kernel_size),
        stride=cast(Any, module.stride),
        padding=cast(Any, module.padding),
        dilation=cast(Any, module.dilation),
        padding_mode=module.padding_mode,
        bias=False,
        **place,
    )
    second = kind(rank, module.out_channels, 1, bias=bias, **place)
    return nn.Sequential(first, second).train(module.training)


def _words(module: nn.Module) -> str:
    groups = getattr(module, "groups", 1)
    name = type(module).__name__
    return name if groups == 1 else f"{name} in {groups} groups"


def _complete(model: nn.Module, state: dict[str, Tensor]) -> None:
    """Give the names that the file does not hold the weights that the module ties them to."""
    own = model.state_dict(keep_vars=True)
    held = {id(own[name]): name for name in state if name in own}
    for name, value in own.items():
        if name not in state and id(value) in held:
            state[name] = state[held[id(value)]]


class SplitLinear(nn.Sequential):
    """Two linear maps in place of one, under the names of a plain ``nn.Sequential``.

    Modules that read a layer's weight instead of calling it (attention, fused encoders) find the
    product here; it is computed at each access, so such modules do not get faster.
    """

    def __init__(self, layer: nn.Linear, rank: int, *, bias: bool) -> None:
        weight = layer.weight
        place = {"device": weight.device, "dtype": weight.dtype}
        right = nn.Linear(layer.in_features, rank, bias=False, **place)
        left = nn.Linear(rank, layer.out_features, bias=bias, **place)
        super().__init__(right, left)
        self.in_features, self.out_features = layer.in_features, layer.out_features
        self.train(layer.training)

    @property
    def right(self) -> nn.Linear:
        """The first map, to ``rank`` values."""
        return cast(nn.Linear, self[0])

    @property
    def left(self) -> nn.Linear:
        """The second map, with the bias."""
        return cast(nn.Linear, self[1])

    @property
    def weight(self) -> Tensor:
        """The product of the factors, shape (out, in)."""
        return self.left.weight @ self.right.weight

    @property
    def bias(self) -> Tensor | None:
        """The bias of the second map."""
        return self.left.bias


def float64_of(tensor: Tensor) -> FloatArray:
    """A tensor's values as an array, of whatever floating type and on whatever device it is."""
    return np.asarray(tensor.detach().double().cpu().numpy(), np.float64)


def prefix_of(model: nn.Module, checkpoint: Checkpoint) -> str:
    """The prefix under which the file holds the model's parameters: none, or the only one.

    Raises:
        CheckpointError: several fit, such as a student's and a teacher's.
    """
    keys = list(model.state_dict())
    if not keys:
        return ""
    names = checkpoint.infos.keys()
    first = (keys[0], *factors_of(module_of(keys[0]))[:1])
    near = {
        name.removesuffix(end)
        for name in names
        for end in first
        if name == end or name.endswith(f".{end}")
    }

    def holds(prefix: str) -> bool:
        return all(
            f"{prefix}{key}" in names
            or not names.isdisjoint(prefix + end for end in factors_of(module_of(key)))
            for key in keys
        )

    fits = {prefix for prefix in near if holds(prefix)}
    if "" in fits or not near:
        return ""
    wrapped = {prefix for prefix in fits if set(prefix.split(".")) <= _WRAPPERS}
    if len(fits) > 1 and len(wrapped) != 1:
        raise CheckpointError(
            f"{checkpoint.path}: holds {type(model).__name__} under several names: "
            f"{', '.join(sorted(fits))}"
        )
    if not fits:  # none is whole: the nearest, whose gaps torch will name
        return min(near, key=lambda prefix: (len(prefix), prefix))
    return (wrapped if len(fits) > 1 else fits).pop()
