"""The network of a directory without its matrices, which are read module by module.

transformers loads the network from tensors without memory of their own: one value, NaN, seen in the
shape of a matrix. It puts them where the matrices belong, whatever the architecture's names, and
each parameter tells by its storage which tensor of the checkpoint it stands for. Matrices are read
into their parameters later, and given back. A computation with one that was not read is NaN, and
so never a wrong number in silence.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from itertools import chain

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, as_tensor, nn

from rmtcli.checkpoint import Checkpoint
from rmtcli.checkpoint.dtypes import FLOATS
from rmtcli.checkpoint.torch.file import to_torch
from rmtcli.errors import NotInPartsError
from rmtcli.evaluation.pretrained import Pretrained, from_state
from rmtcli.evaluation.tasks import Task


class Outline:
    """A network whose matrices are read when they are needed, in float32.

    Args:
        checkpoint: a Hugging Face directory.
        task: what the network is for.
        device: where it runs.

    Attributes:
        model: the network, in evaluation mode; its vectors are there.

    Raises:
        EvaluationError: transformers cannot load it.
        NotInPartsError: transformers computes some of its matrices from several tensors.
    """

    def __init__(self, checkpoint: Checkpoint, task: Task, device: str = "cpu") -> None:
        infos = {name: checkpoint.infos[name] for name in checkpoint.distinct}
        marks = {
            name: torch.full((1,), math.nan).expand(info.shape)
            for name, info in infos.items()
            if len(info.shape) > 1 and info.dtype in FLOATS
        }
        others = {n: to_torch(checkpoint.raw(n), n) for n in infos if n not in marks}
        self._checkpoint, self._device = checkpoint, device
        self._names = {_storage(mark): name for name, mark in marks.items()}
        self._marks = marks  # each one's storage must go on to exist
        self._loaded: dict[int, tuple[nn.Parameter, Tensor]] = {}
        self._others: dict[str, Callable[[], NDArray[np.floating]]] = {}
        self._held = False
        self.model: Pretrained = from_state(checkpoint, task, others | marks)
        _without_cache(self.model.network)
        for parameter in self.model.parameters():
            name = self._names.get(_storage(parameter))
            whole = name is not None and parameter.data.stride() == marks[name].stride()
            if name is None and not bool(parameter.isnan().any()):
                parameter.data = parameter.data.to(device)
            elif not whole:
                raise NotInPartsError("transformers computes weights from several tensors")
        for module in self.model.modules():
            for key, buffer in module._buffers.items():
                module._buffers[key] = None if buffer is None else buffer.to(device)
            if any(_storage(x) in self._names for x in module.parameters(recurse=False)):
                module.register_forward_pre_hook(partial(self._before, recurse=False))

    def load(self, module: nn.Module, *, recurse: bool = True) -> None:
        """Read the matrices of a module, and of those in it, unless they are there."""
        for parameter in module.parameters(recurse=recurse):
            name = self._names.get(_storage(parameter))
            if name is not None:
                mark = parameter.data
                value = self._read(name)
                parameter.data = value.to(self._device, torch.float32)
                self._loaded[id(parameter)] = parameter, mark

    def replace(self, name: str, read: Callable[[], NDArray[np.floating]]) -> None:
        """Take a matrix from elsewhere from now on, in the shape of the checkpoint's tensor."""
        self._others[name] = read

    def close(self) -> None:
        """Forget where matrices come from that were replaced."""
        self._others.clear()

    def block_by_block(self) -> None:
        """Let whatever runs the network hold the matrices of one block at a time."""
        for name in chain.from_iterable(blocks_of(self.model).values()):
            block = self.model.get_submodule(name)
            block.register_forward_pre_hook(self._before)
            block.register_forward_hook(lambda *_: None if self._held else self.drop())

    @contextmanager
    def holding(self, block: nn.Module) -> Iterator[None]:
        """Hold the matrices of a block, which may run several times, also backwards."""
        self.load(block)
        self._held = True
        try:
            yield
        finally:
            self._held = False
            self.drop()

    def _before(self, module: nn.Module, _: object, *, recurse: bool = True) -> None:
        """Read the matrices of a module that runs, unless a function stands in for it."""
        if "forward" not in module.__dict__:
            self.load(module, recurse=recurse)

    def _read(self, name: str) -> Tensor:
        other = self._others.get(name)
        return to_torch(self._checkpoint.raw(name), name) if other is None else as_tensor(other())

    def drop(self) -> None:
        """Give the matrices back that were read."""
        for parameter, mark in self._loaded.values():
            parameter.data = mark
        self._loaded.clear()


def blocks_of(model: nn.Module) -> dict[str, list[str]]:
    """The names of the modules in each list of modules that is in no other list."""
    lists = [n for n, m in model.named_modules() if isinstance(m, nn.ModuleList) and len(m)]
    lists = [n for n in lists if not any(n.startswith(f"{other}.") for other in lists)]
    return {n: [f"{n}.{i}" for i, _ in model.get_submodule(n).named_children()] for n in lists}


def _storage(tensor: Tensor) -> int:
    return tensor.untyped_storage().data_ptr()


def _without_cache(network: nn.Module) -> None:
    """Let a network keep no keys and values: a block that runs twice would keep them twice."""
    for module in network.modules():
        if hasattr(config := getattr(module, "config", None), "use_cache"):
            config.use_cache = False  # type: ignore[union-attr]
