"""Train a deep network with the values of one of its blocks in memory."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from itertools import count
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.graph import saved_tensors_hooks
from torch.utils.checkpoint import checkpoint

from rmtcli.evaluation.pretrained import Pretrained

#: Bytes that a step may keep for its backward pass before blocks are computed again.
ROOM = 2**30
#: Tensors of fewer bytes stay in memory.
SMALL = 2**16


def kept(step: Callable[[], Tensor], model: nn.Module) -> int:
    """Bytes that a step keeps for its backward pass, beside the network's parameters.

    Args:
        step: computes a loss.
        model: the network that is trained.
    """
    own = {p.untyped_storage().data_ptr() for p in model.parameters()}
    sizes: dict[int, int] = {}

    def note(x: Tensor) -> Tensor:
        storage = x.untyped_storage()
        if storage.data_ptr() not in own:
            sizes[storage.data_ptr()] = storage.nbytes()
        return x

    with saved_tensors_hooks(note, lambda x: x):
        loss = step()  # it holds the storages, so that no two of them have one address
    del loss
    return sum(sizes.values())


@contextmanager
def computed_again(model: nn.Module) -> Iterator[None]:
    """Have backward passes compute the values within each block again, from what the block read.

    That waits in a file, so that memory holds the values of one block at a time (Chen, Xu, Zhang
    and Guestrin, arXiv:1604.06174). The gradients are the same.

    Args:
        model: the network; its blocks are the modules in its lists of modules.
    """
    blocks = list(_blocks(model))
    configs: list[Any] = [x.network.config for x in model.modules() if isinstance(x, Pretrained)]
    caching = [config for config in configs if getattr(config, "use_cache", False)]
    with tempfile.TemporaryDirectory(prefix="rmtcli-") as name:
        files = _Files(Path(name))
        for block in blocks:
            object.__setattr__(block, "forward", _Again(block.forward, files))
        for config in caching:  # a cache of keys would get those of a block twice
            config.use_cache = False
        try:
            yield
        finally:
            for block in blocks:
                object.__delattr__(block, "forward")
            for config in caching:
                config.use_cache = True


def _blocks(model: nn.Module) -> Iterator[nn.Module]:
    """The members of the outermost lists of modules that are more than single layers."""
    for child in model.children():
        members = list(child.children()) if isinstance(child, nn.ModuleList | nn.Sequential) else []
        if len(members) > 1 and all(len(list(member.children())) > 1 for member in members):
            yield from members
        else:
            yield from _blocks(child)


class _Again:
    """A block's forward pass whose values are computed again when they are needed.

    Args:
        forward: the forward pass.
        files: hold what it reads.
    """

    def __init__(self, forward: Callable[..., Any], files: _Files) -> None:
        self._forward, self._files = forward, files

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        with saved_tensors_hooks(self._files.write, self._files.read):
            return checkpoint(self._forward, *args, use_reentrant=False, **kwargs)


class _Files:
    """Tensors of a graph in files, each of which goes with the graph.

    Args:
        folder: holds the files.
    """

    def __init__(self, folder: Path) -> None:
        self._folder, self._numbers = folder, count()

    def write(self, x: Tensor) -> Tensor | _File:
        """Put a large tensor into a file."""
        if x.nbytes < SMALL:
            return x
        file = _File(self._folder / f"{next(self._numbers)}.pt")
        torch.save(x.detach().clone(), file.path)
        return file

    def read(self, stored: Tensor | _File) -> Tensor:
        """The tensor again."""
        if isinstance(stored, Tensor):
            return stored
        values: Tensor = torch.load(stored.path)
        return values


class _File:
    """A file that is removed when nothing needs it any more.

    Args:
        path: the file.
    """

    def __init__(self, path: Path) -> None:
        self.path = path

    def __del__(self) -> None:
        self.path.unlink(missing_ok=True)
