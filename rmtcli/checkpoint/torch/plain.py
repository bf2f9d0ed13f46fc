"""Ordinary files by ``torch.save``, read without torch."""

from __future__ import annotations

import zipfile
from collections import OrderedDict
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from rmtcli.checkpoint.dtypes import TYPES
from rmtcli.checkpoint.manifest import Manifest
from rmtcli.checkpoint.ties import shared_storages
from rmtcli.checkpoint.torch.archive import Archive, StorageView, entry
from rmtcli.checkpoint.torch.limit import HEADROOM, limited
from rmtcli.checkpoint.torch.script import StorageUnpickler
from rmtcli.checkpoint.torch.state_dict import MANIFEST_ATTRIBUTE, at, extras_of, find_state_dict


class UnusualError(Exception):
    """The file holds something that only torch should judge."""


class PlainTorchFile(Archive):
    """A zip archive by ``torch.save`` in which each tensor fills a storage of its own.

    Its pickle is read by an unpickler that can make dictionaries and views of storages, and calls
    nothing else. A file with anything else in it, harmless, damaged or hostile, is not opened here
    but by torch's own reader, which takes a second to import.

    Args:
        path: the file.
        key: which state dict, where the file holds several.

    Raises:
        UnusualError: the file is of another kind.
    """

    form = "torch file"

    def __init__(self, path: Path, key: str | None = None) -> None:
        self.key = key
        try:
            with limited(HEADROOM + 3 * path.stat().st_size):
                super().__init__(path)
        except OSError:
            raise
        # The type of an unpickler's error depends on where it fails; torch's reader will explain.
        except Exception as error:
            raise UnusualError(str(error)) from None
        if (record := Manifest.from_json(self._record)) is not None:
            self.adopt(record)
        self.aliases = shared_storages(self)
        self.extras = self._extras

    def find(self, archive: zipfile.ZipFile) -> Mapping[str, StorageView]:
        """Every tensor of the state dict."""
        if sum(item.file_size for item in archive.infolist()) > self.path.stat().st_size:
            raise UnusualError("entries that share their bytes")
        pickled = entry(archive, f"{self.root}/data.pkl")
        tree = _PlainUnpickler(pickled, f"{self.root}/data/", _KNOWN).load()
        where = find_state_dict(self.path, tree, _is_view, self.key)
        state = at(tree, where)
        for name, view in state.items():
            if not (isinstance(name, str) and isinstance(view, StorageView) and view.well_formed):
                raise UnusualError("an entry that is not a tensor")
            if _contiguous_bytes(view) != archive.getinfo(view.entry).file_size:
                raise UnusualError("a tensor that is part of its storage")
        attributes = state.attributes if isinstance(state, _StateDict) else {}
        self._record = attributes.get(MANIFEST_ATTRIBUTE, "")
        self._extras = extras_of(tree, where)
        return dict(state)


def _is_view(value: object) -> bool:
    return isinstance(value, StorageView)


def _contiguous_bytes(view: StorageView) -> int | None:
    """Bytes of a tensor that lies in order from its storage's beginning; None for other tensors."""
    size = 1
    for side, step in zip(reversed(view.shape), reversed(view.stride), strict=True):
        if side != 1 and step != size:
            return None
        size *= side
    return size * TYPES[view.dtype].width if view.offset == 0 and size > 0 else None


class _StateDict(OrderedDict[Any, Any]):
    """A state dict whose attributes are kept apart, so that none can replace a method."""

    attributes: Mapping[str, Any] = {}

    def __setstate__(self, state: Mapping[str, Any]) -> None:
        self.__dict__["attributes"] = dict(state)


class _PlainUnpickler(StorageUnpickler):
    def persistent_load(self, pid: Any) -> tuple[str, str]:
        """A storage on the CPU, as the name of its entry and its type.

        Raises:
            UnusualError: the storage belongs to another device.
        """
        kind, _, _, device, _ = pid
        if kind != "storage" or not str(device).startswith("cpu"):
            raise UnusualError("a storage of another device")
        return super().persistent_load(pid)


def _tensor(
    storage: tuple[str, str], offset: int, shape: Any, stride: Any, grad: bool, hooks: Any
) -> StorageView:
    """Stands for ``torch._utils._rebuild_tensor_v2``."""
    if hooks:
        raise UnusualError("a tensor with hooks")
    return StorageView(*storage, tuple(shape), tuple(stride), offset)


def _parameter(data: StorageView, grad: bool, hooks: Any) -> StorageView:
    """Stands for ``torch._utils._rebuild_parameter``."""
    if hooks:
        raise UnusualError("a parameter with hooks")
    return data


_KNOWN: Mapping[tuple[str, str], Callable[..., Any]] = {
    ("collections", "OrderedDict"): _StateDict,
    ("torch._utils", "_rebuild_tensor_v2"): _tensor,
    ("torch._utils", "_rebuild_parameter"): _parameter,
}
