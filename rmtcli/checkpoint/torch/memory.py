"""Networks in memory: the tensors of a torch module, or of a state dict."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from types import MappingProxyType
from typing import Any, cast

import numpy as np
import torch
from torch import nn

from rmtcli.checkpoint.base import IN_MEMORY, About, Checkpoint, one_network
from rmtcli.checkpoint.huggingface.config import about
from rmtcli.checkpoint.manifest import Manifest
from rmtcli.checkpoint.packing import Packed
from rmtcli.checkpoint.ties import shared_storages
from rmtcli.checkpoint.torch.state_dict import MANIFEST_ATTRIBUTE, at, find_state_dict, word
from rmtcli.checkpoint.torch.tensors import DTYPES, HeldTensors, info_of
from rmtcli.errors import CheckpointError, UsageError

#: The attribute of a wrapping module that holds the network itself, by the wrapper's class.
_WRAPPED = {
    "OptimizedModule": "_orig_mod",
    "DataParallel": "module",
    "DistributedDataParallel": "module",
}
#: The attribute of a compressed module that holds its matrices in few bits, by name.
_PACKED = "_rmtcli_packed"


class InMemory(HeldTensors):
    """The tensors of a network in memory, which are not copied.

    Args:
        state: the tensors by name, and perhaps other values.
        name: what messages call the network; it ends in a mark that no path has.
        module: the module that the tensors are of, without wrappers; None for a state dict.
        manifest: rmtcli's record, if the network was compressed.
        packed: the matrices in few bits of which tensors hold the values; one whose values have
            changed since is an ordinary tensor.

    Raises:
        CheckpointError: a tensor has no values.
    """

    form = "network in memory"
    as_stored = True

    def __init__(
        self,
        state: Mapping[Any, Any],
        name: str,
        module: nn.Module | None = None,
        manifest: Manifest | None = None,
        packed: Mapping[str, Packed] = MappingProxyType({}),
    ) -> None:
        self.state, self.path, self.module = state, Path(name), module
        empty = (key for key, value in state.items() if _is_tensor(value) and value.is_meta)
        if (first := next(empty, None)) is not None:
            raise CheckpointError(
                f"{name}: '{first}' is on the meta device and has no values: load its weights first"
            )
        own = {key: x for key, x in state.items() if isinstance(key, str) and _is_tensor(x)}
        self.infos = {key: info_of(value) for key, value in own.items()}
        self.opaque = tuple(word(key) for key in state if key not in self.infos)
        others = (x for key, x in state.items() if key not in own and isinstance(x, torch.Tensor))
        self.opaque_bytes = sum(x.numel() * x.element_size() for x in others)
        self.about = About() if module is None else _about(core_of(module))
        self._packed = {name: part for name, part in packed.items() if self._holds(name, part)}
        if manifest is not None:
            records = {name: part.record for name, part in self._packed.items()}
            self.adopt(replace(manifest, packed=records))
        self.aliases = shared_storages(self)

    def _holds(self, name: str, part: Packed) -> bool:
        """Whether a tensor still has the values of a matrix in few bits."""
        info = self.infos.get(name)
        if info is None or (info.shape, info.dtype) != (part.shape, part.dtype):
            return False
        return np.array_equal(self.raw(name).data, part.read().data)

    def packed(self, name: str) -> Packed | None:
        """The parts of a matrix in few bits; None for any other tensor."""
        return self._packed.get(name)

    def nbytes(self, name: str) -> int:
        """Bytes that a file takes for one tensor."""
        return self._packed[name].nbytes if name in self._packed else super().nbytes(name)

    @property
    def files(self) -> tuple[Path, ...]:
        """None: the tensors are in memory."""
        return ()


def in_memory(source: object, key: str | None = None) -> InMemory:
    """The checkpoint of a module's tensors, or of a state dict's.

    Args:
        source: the module; a wrapper's (``torch.compile``, ``DataParallel``) stands for the network
            in it, and a SentenceTransformer for its transformers model. Or a mapping that is a
            state dict, or holds one, as a training program's checkpoint does.
        key: which state dict, where a mapping holds several.

    Raises:
        UsageError: it is neither, or there are several state dicts.
        CheckpointError: it holds no tensors, or they have no values.
    """
    if isinstance(source, nn.Module):
        module, core = bare(source), core_of(source)
        name = f"{type(core).__name__}{IN_MEMORY}"
        if key is not None:
            raise one_network(Path(name), "module")
        packed = vars(core).get(_PACKED, {})
        return InMemory(core.state_dict(), name, module, record_of(core), packed)
    if isinstance(source, Mapping):
        name = f"state dict{IN_MEMORY}"
        state = at(source, find_state_dict(Path(name), source, _is_tensor, key))
        record = Manifest.from_json(getattr(state, MANIFEST_ATTRIBUTE, ""))
        return InMemory(state, name, None, record)
    raise UsageError(
        f"{type(source).__name__} is not a network: give a torch module, a state dict or a path"
    )


def record_of(module: nn.Module) -> Manifest | None:
    """Rmtcli's record of a module that it compressed or loaded; None for any other."""
    return Manifest.from_json(str(vars(module).get(MANIFEST_ATTRIBUTE, "")))


def put_record(module: nn.Module, record: Manifest | None) -> None:
    """Keep rmtcli's record in a module, as an attribute."""
    if record is not None:
        vars(module)[MANIFEST_ATTRIBUTE] = record.to_json()


def keep_packed(module: nn.Module, checkpoint: Checkpoint) -> None:
    """Keep the matrices in few bits whose values a module holds, so that it can be saved so.

    Args:
        module: the module.
        checkpoint: the network whose tensors it holds.
    """
    parts = {name: checkpoint.packed(name) for name in checkpoint.infos}
    vars(module)[_PACKED] = {name: part.held for name, part in parts.items() if part is not None}


def bare(module: nn.Module) -> nn.Module:
    """The module in wrappers of torch; the module itself, if it has none."""
    for kind in type(module).__mro__:
        if kind.__name__ in _WRAPPED:
            return bare(getattr(module, _WRAPPED[kind.__name__]))
    return module


def core_of(module: nn.Module) -> nn.Module:
    """The network in a module: without wrappers, and of a SentenceTransformer its first part's."""
    module = bare(module)
    if is_sentence_transformer(module):
        inner = getattr(cast(Any, module)[0], "auto_model", None)
        if isinstance(inner, nn.Module):
            return inner
    return module


def is_sentence_transformer(module: object) -> bool:
    """Whether a module is a SentenceTransformer; the package need not be installed."""
    return _is_a(module, "sentence_transformers", "SentenceTransformer")


def is_pretrained(module: object) -> bool:
    """Whether a module is a model of transformers; the package need not be installed."""
    return _is_a(module, "transformers", "PreTrainedModel")


def _is_a(module: object, package: str, name: str) -> bool:
    """Whether an object is of a class of this name in a package."""
    kinds = type(module).__mro__
    return any(k.__name__ == name and k.__module__.split(".")[0] == package for k in kinds)


def _about(module: nn.Module) -> About:
    """The facts in the configuration of a transformers model."""
    return about(cast(Any, module).config.to_dict()) if is_pretrained(module) else About()


def _is_tensor(value: object) -> bool:
    """Whether a value is an ordinary dense tensor of a type with a name in safetensors."""
    kinds = (torch.Tensor, nn.Parameter)
    if not isinstance(value, torch.Tensor) or type(value) not in kinds:
        return False
    return value.layout == torch.strided and value.dtype in DTYPES
