"""TorchScript archives: the weights of a compiled module, without its code.

``torch.jit.load`` compiles the code in an archive. Here only its pickle is read, by an unpickler
that can call nothing but the inert stand-ins below: objects become named attributes, tensors become
views of storages in the archive.
"""

from __future__ import annotations

import io
import pickle
import zipfile
from collections import OrderedDict
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from rmtcli.checkpoint.dtypes import TYPES
from rmtcli.checkpoint.torch.archive import Archive, StorageView, entry
from rmtcli.errors import CheckpointError

#: The types of torch's storages, by their classes.
STORAGES = {dtype.storage: name for name, dtype in TYPES.items() if dtype.storage is not None}
_LISTS = ("build_intlist", "build_boollist", "build_doublelist", "build_tensorlist")


class TorchScriptFile(Archive):
    """A module that ``torch.jit.save`` wrote."""

    form = "TorchScript archive"

    def find(self, archive: zipfile.ZipFile) -> Mapping[str, StorageView]:
        """Every tensor among the module's attributes, by its path of names."""
        pickled = entry(archive, f"{self.root}/data.pkl")
        unpickler = _ModuleUnpickler(pickled, f"{self.root}/data/", _KNOWN)
        try:
            module = unpickler.load()
            return dict(_tensors(module, ()))
        except RefusedError as error:
            raise CheckpointError(
                f"{self.path}: refused: its pickle calls for {error}, which is not a weight "
                "(nothing was run): save model.state_dict() instead"
            ) from None
        # The type of an unpickler's error on a damaged pickle depends on where it fails.
        except Exception:
            raise CheckpointError(f"{self.path}: not a whole {self.form}") from None


def is_torchscript(names: list[str]) -> bool:
    """Whether an archive with entries of these names is a TorchScript archive."""
    parts = {name.partition("/")[2] for name in names}
    return {"data.pkl", "constants.pkl"} <= parts and any(p.startswith("code/") for p in parts)


class RefusedError(Exception):
    """The pickle calls for a global that has no stand-in; the message is its name."""


class _Object:
    """Stands for an object of any compiled class: its attributes, and nothing else."""

    def __init__(self) -> None:
        self.state: Mapping[str, Any] = {}

    def __setstate__(self, state: Mapping[str, Any]) -> None:
        self.state = state


class StorageUnpickler(pickle._Unpickler):  # the C version allocates up to the largest memo index
    """Unpickles tensors as views of storages, and calls nothing but inert stand-ins.

    Args:
        data: the pickle.
        folder: the folder of the storages in the archive, with a slash at the end.
        known: the stand-ins for globals, by module and name.
    """

    def __init__(
        self, data: bytes, folder: str, known: Mapping[tuple[str, str], Callable[..., Any]]
    ) -> None:
        super().__init__(io.BytesIO(data))
        self.folder, self.known = folder, known

    def find_class(self, module: str, name: str) -> Any:
        """The stand-in for a global.

        Raises:
            RefusedError: no stand-in is known.
        """
        if module == "torch" and name in STORAGES:
            return STORAGES[name]
        if (module, name) not in self.known:
            raise RefusedError(f"{module}.{name}")
        return self.known[module, name]

    def persistent_load(self, pid: Any) -> tuple[str, str]:
        """A storage, as the name of its entry and its type."""
        _, dtype, key, _, _ = pid
        return f"{self.folder}{key}", str(dtype)


class _ModuleUnpickler(StorageUnpickler):
    def find_class(self, module: str, name: str) -> Any:
        """The stand-in for a global or a compiled class."""
        return _Object if module.startswith("__torch__") else super().find_class(module, name)


def _tensor(
    storage: tuple[str, str],
    offset: int,
    shape: tuple[int, ...],
    stride: tuple[int, ...],
    grad: bool = False,
    hooks: Any = None,
    bits: Any = None,
) -> StorageView:
    """Stands for ``torch._utils._rebuild_tensor_v2``."""
    if bits:  # the storage holds the negative or the conjugate of the tensor
        raise RefusedError("a view of other values")
    entry, dtype = storage
    return StorageView(entry, dtype, tuple(map(int, shape)), tuple(map(int, stride)), int(offset))


_KNOWN: Mapping[tuple[str, str], Callable[..., Any]] = {
    ("collections", "OrderedDict"): OrderedDict,
    ("torch._utils", "_rebuild_tensor_v2"): _tensor,
    ("torch.jit._pickle", "restore_type_tag"): lambda value, tag: value,
    **{("torch.jit._pickle", name): list for name in _LISTS},
}


def _tensors(value: object, path: tuple[str, ...]) -> Iterator[tuple[str, StorageView]]:
    """The tensors among an object's attributes, by their paths of names."""
    if isinstance(value, StorageView):
        yield ".".join(path), value
    elif isinstance(value, _Object):
        for name, inner in value.state.items():
            yield from _tensors(inner, (*path, str(name)))
