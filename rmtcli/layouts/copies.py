"""Copies of modules that share memory, have their own or hold no values; and new values in them.

The values of a network in memory are never written to: a copy has parameters of its own over the
same memory, and what changes becomes a new parameter.
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from rmtcli.checkpoint import Checkpoint
from rmtcli.checkpoint.torch.file import to_torch
from rmtcli.errors import EvaluationError, first_line

#: The attribute of a compressed module that holds its dense structure, without values.
_SHELL = "_rmtcli_dense"


def shared_copy(module: nn.Module) -> nn.Module:
    """A copy whose parameters have the same memory as the module's; buffers are copied.

    Raises:
        EvaluationError: the module cannot be copied, or has weights without gradients.
    """
    if any(value.is_inference() for value in module.parameters()):
        raise EvaluationError(
            f"the weights of {type(module).__name__} were made in torch.inference_mode() and cannot"
            " have gradients: make or load the network outside of it"
        )
    return _copied(module, Tensor.detach)


def own_copy(module: nn.Module) -> nn.Module:
    """A copy with values of its own.

    Raises:
        EvaluationError: the module cannot be copied.
    """
    return _copied(module, lambda value: value.detach().clone())


def shell_of(module: nn.Module) -> nn.Module:
    """A copy that holds no values: its parameters are on the meta device.

    Buffers that no state dict holds keep their values.

    Raises:
        EvaluationError: the module cannot be copied.
    """
    return _copied(module, lambda value: torch.empty_like(value, device="meta"))


def _copied(module: nn.Module, parameter: Callable[[Tensor], Tensor]) -> nn.Module:
    """A deep copy of a module.

    Args:
        module: the module.
        parameter: gives the values of the copy's parameters.

    Raises:
        EvaluationError: Python cannot copy something in it.
    """
    memo: dict[int, Any] = {}
    for part in module.modules():
        for value in vars(part).values():
            if isinstance(value, Tensor):  # torch refuses to copy tensors that were computed
                memo[id(value)] = value.detach().clone()
    for own in module.parameters():
        memo[id(own)] = nn.Parameter(parameter(own), own.requires_grad)
    for buffer in module.buffers():
        memo[id(buffer)] = buffer.detach().clone()
    try:
        return copy.deepcopy(module, memo)
    except Exception as error:  # its parts may be anything
        raise EvaluationError(
            f"{type(module).__name__} cannot be copied ({first_line(error)}): rmtcli.compress_ "
            "changes a module in place, from its weights alone"
        ) from None


def unshare(model: nn.Module) -> None:
    """Give every parameter of a shared copy memory of its own."""
    made: dict[int, nn.Parameter] = {}
    old = list(model.parameters())  # which keeps their ids in use
    for own in old:
        made[id(own)] = nn.Parameter(own.detach().clone(), own.requires_grad)
    for module in model.modules():
        for name, parameter in module._parameters.items():
            if parameter is not None:
                module._parameters[name] = made[id(parameter)]


def keep_shell(model: nn.Module, shell: nn.Module | None) -> None:
    """Keep the dense structure of a module in it, unless it has one from an earlier compression."""
    if shell is not None:
        vars(model).setdefault(_SHELL, shell)


def kept_shell(model: nn.Module) -> nn.Module | None:
    """The dense structure that a module keeps; None if it keeps none."""
    shell: nn.Module | None = vars(model).get(_SHELL)
    return shell


def put_values(
    model: nn.Module,
    checkpoint: Checkpoint,
    names: set[str],
    *,
    frozen: set[str] | frozenset[str] = frozenset(),
    device: torch.device | None = None,
) -> None:
    """Give a module new parameters and buffers with the values of a checkpoint.

    Names that share a tensor in the checkpoint share a parameter.

    Args:
        model: the module, with these names.
        checkpoint: the values.
        names: what to put.
        frozen: names of parameters that are not trained.
        device: where the new tensors are; None for where the old ones are.
    """
    made: dict[str, Tensor] = {}
    replaced: dict[int, Tensor] = {}
    old = named(model)
    for name in checkpoint.infos:
        if name not in names or name not in old:
            continue
        first, own = checkpoint.aliases.get(name, name), old[name]
        if first not in made:
            value = to_torch(checkpoint.raw(name), name).to(device or own.device)
            trained = name not in frozen and value.is_floating_point() and own.requires_grad
            made[first] = nn.Parameter(value, trained) if isinstance(own, nn.Parameter) else value
        replaced[id(own)] = made[first]
        _set(model, name, made[first])
    for name, own in old.items():  # names that the checkpoint leaves to the module's own ties
        if name not in checkpoint.infos and id(own) in replaced:
            _set(model, name, replaced[id(own)])


def _set(model: nn.Module, name: str, value: Tensor) -> None:
    parent, _, leaf = name.rpartition(".")
    owner = model.get_submodule(parent)
    tensors: dict[str, Any] = owner._parameters if leaf in owner._parameters else owner._buffers
    tensors[leaf] = value


def named(model: nn.Module) -> dict[str, Tensor]:
    """All parameters and buffers of a module, each under all of its names."""
    return {
        **dict(model.named_parameters(remove_duplicate=False)),
        **dict(model.named_buffers(remove_duplicate=False)),
    }
