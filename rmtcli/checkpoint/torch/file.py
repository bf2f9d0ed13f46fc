"""Files written by ``torch.save``: bare state dicts, and checkpoints with one inside."""

from __future__ import annotations

import errno
import re
import warnings
import zipfile
from collections import OrderedDict
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch.serialization import get_unsafe_globals_in_checkpoint

from rmtcli.checkpoint.base import FileCheckpoint
from rmtcli.checkpoint.dtypes import TYPES, RawTensor
from rmtcli.checkpoint.manifest import Manifest
from rmtcli.checkpoint.ties import shared_storages
from rmtcli.checkpoint.torch.archive import EXPANDED, reading
from rmtcli.checkpoint.torch.limit import HEADROOM, limited
from rmtcli.checkpoint.torch.state_dict import (
    MANIFEST_ATTRIBUTE,
    at,
    extras_of,
    find_state_dict,
    word,
)
from rmtcli.checkpoint.torch.tensors import DTYPES, PAIRS, HeldTensors, info_of
from rmtcli.errors import CheckpointError, out_of_memory
from rmtcli.files import is_remote

#: The methods that give the parts of a sparse tensor, by its layout.
_PARTS = {
    torch.sparse_coo: ("_indices", "_values"),
    **dict.fromkeys(
        (torch.sparse_csr, torch.sparse_bsr), ("crow_indices", "col_indices", "values")
    ),
    **dict.fromkeys(
        (torch.sparse_csc, torch.sparse_bsc), ("ccol_indices", "row_indices", "values")
    ),
}
#: torch's word for the first instruction of a pickle of protocol 4, which its reader lacks.
_PROTOCOL_4 = "Unsupported operand 149"
_TORCH = {name: dtype for dtype, name in DTYPES.items()}


class TorchFile(HeldTensors, FileCheckpoint):
    """A checkpoint read with ``weights_only=True``: tensors and plain values, no code.

    Args:
        path: the file.
        key: which state dict, where the file holds several.

    Attributes:
        tree: the whole loaded object.
        where: keys that lead from ``tree`` to the state dict; empty for a bare one.
        state: the state dict.
    """

    form = "torch file"
    as_stored = True

    def __init__(self, path: Path, key: str | None = None) -> None:
        super().__init__(path)
        self.key = key
        self.tree = _load(path)
        self.where = where = find_state_dict(path, self.tree, _is_plain, key)
        self.state: Mapping[Any, Any] = at(self.tree, where)
        if attributes_of(self.state).keys() & set(dir(OrderedDict)):
            raise CheckpointError(f"{path}: its state dict has attributes in place of its methods")
        self.infos = {
            name: info_of(value)
            for name, value in self.state.items()
            if isinstance(name, str) and _is_plain(value)
        }
        self.extras = extras_of(self.tree, where)
        self.opaque = tuple(word(key) for key in self.state if key not in self.infos)
        others = {word(key): x for key, x in self.state.items() if key not in self.infos}
        tensors = {name: x for name, x in others.items() if isinstance(x, torch.Tensor)}
        self.opaque_bytes = sum(map(_bytes_of_other, tensors.values()))
        self.remarks = _on_others(tensors)
        if (record := Manifest.from_json(getattr(self.state, MANIFEST_ATTRIBUTE, ""))) is not None:
            self.adopt(record)
        self.aliases = shared_storages(self)


def to_torch(raw: RawTensor, name: str = "a tensor") -> torch.Tensor:
    """A new torch tensor with a copy of the bytes of ``raw``.

    Args:
        raw: type, shape and bytes.
        name: the tensor's name, for messages.

    Raises:
        CheckpointError: torch has no such type.
    """
    word, shape = TYPES[raw.dtype].word, raw.shape
    if raw.dtype == PAIRS and shape and shape[-1] % 2 == 0:
        shape = (*shape[:-1], shape[-1] // 2)
    elif raw.dtype not in _TORCH or raw.dtype == PAIRS:
        raise CheckpointError(
            f"'{name}' is of type {word} and shape {shape}, which torch {torch.__version__} does "
            "not have: write to a .safetensors file"
        )
    if not raw.data.size:
        return torch.empty(shape, dtype=_TORCH[raw.dtype])
    return torch.from_numpy(np.array(raw.data)).view(_TORCH[raw.dtype]).reshape(shape)


def _load(path: Path) -> Any:
    """The object in a torch file.

    Raises:
        CheckpointError: the file is damaged, holds more than tensors and plain values, or needs
            more memory than its size explains.
        OSError: the system cannot read it.
    """
    try:
        return _unpickle(path)
    except CheckpointError:
        raise
    except OSError as error:
        if error.errno != errno.EINVAL:  # an offset in a damaged table, before the beginning
            raise
        raise CheckpointError(f"{path}: {_explain('')}") from None
    # The type of torch's error on a damaged file depends on where torch fails.
    except Exception as error:
        if out_of_memory(error):
            raise CheckpointError(
                f"{path}: reading it takes more memory than there is, or than a file of its size "
                "should"
            ) from None
        raise CheckpointError(f"{path}: {_explain(str(error), path)}") from None


def _unpickle(path: Path) -> Any:
    """Let torch load a file: mapped into memory if torch can, with a limit on memory."""
    with path.open("rb") as file:
        if zipfile.is_zipfile(file):
            _check_entries(path)
        # torch maps files by name, and only names of printable text; other files are read.
        by_name = not is_remote(path) and str(path).isprintable()
        mapped = by_name and zipfile.is_zipfile(file)
        file.seek(0)
        source = path if mapped else file
        # A file that is not mapped is read and copied: that takes a multiple of its size.
        with limited(HEADROOM + 3 * path.stat().st_size), warnings.catch_warnings():
            warnings.simplefilter("ignore")  # torch deprecates its own older types of tensors
            return torch.load(source, map_location="cpu", weights_only=True, mmap=mapped)


def _check_entries(path: Path) -> None:
    """Refuse an archive whose entries unpack to more bytes than the file has.

    Raises:
        CheckpointError: the archive is damaged, or an entry is compressed, which torch does not
            do, or overlaps another.
    """
    try:
        with reading(path) as archive:
            entries = archive.infolist()
    except zipfile.BadZipFile as error:
        raise CheckpointError(f"{path}: {_explain('')} ({error})") from None
    if any(item.compress_type != zipfile.ZIP_STORED for item in entries):
        raise CheckpointError(f"{path}: is a compressed archive, which torch does not write")
    if sum(item.file_size for item in entries) > path.stat().st_size:
        raise CheckpointError(f"{path}: its entries are larger than the file: it is damaged")


def _explain(message: str, path: Path | None = None) -> str:
    """One line for torch's long message, with the names that the file's pickle calls for."""
    wanted = re.search(r"(?:GLOBAL|class) ([\w.]+)", message)
    if "load DTensors" in message:
        return (
            "its tensors are shards of a distributed model (DTensor): save the whole model by "
            "get_model_state_dict(model, options=StateDictOptions(full_state_dict=True)) of "
            "torch.distributed.checkpoint.state_dict"
        )
    if _PROTOCOL_4 in message:
        return (
            "its pickle is of protocol 4 or newer, which torch does not read safely (nothing was "
            "run): save it again with torch.save(model.state_dict(), FILE), without pickle_protocol"
        )
    if "TorchScript" in message:
        return "a TorchScript archive: save model.state_dict() instead"
    if wanted and ("Unsupported" in message or "weights_only" in message.lower()):
        return (
            f"refused: its pickle calls for {_listed(wanted[1], path)}, and only tensors and plain "
            "values are read (nothing was run): save model.state_dict() instead"
        )
    return "not a whole torch checkpoint: it is damaged, cut short or of another format"


def _listed(first: str, path: Path | None, most: int = 5) -> str:
    """Names that loading would run: the one that torch refused, and others in the pickle."""
    try:
        # Read from the opcodes, without loading; fails for torch's older format, and damaged files.
        others = [] if path is None else get_unsafe_globals_in_checkpoint(path)
    except Exception:
        others = []
    names = [first, *(name for name in sorted(others) if name != first)]
    more = f" and {len(names) - most} more" if len(names) > most else ""
    return ", ".join(names[:most]) + more


def _is_plain(value: object) -> bool:
    """Whether a value is an ordinary dense tensor of a type with a name in safetensors."""
    return (
        isinstance(value, torch.Tensor)
        and type(value) in (torch.Tensor, torch.nn.Parameter)
        and value.layout == torch.strided
        and value.device.type == "cpu"
        and value.dtype in DTYPES
        and (DTYPES[value.dtype] != PAIRS or value.dim() > 0)
        and not _is_overridden(value)
        and value.nbytes <= max(value.untyped_storage().nbytes(), EXPANDED)
    )


def _is_overridden(value: torch.Tensor) -> bool:
    """Whether a tensor has attributes in place of its methods: a pickle can set them."""
    return not vars(value).keys().isdisjoint(dir(torch.Tensor))


def _on_others(tensors: Mapping[str, torch.Tensor]) -> tuple[str, ...]:
    """A remark on tensors that are kept, and of which nothing else is known."""
    if not tensors:
        return ()
    kinds = [f"'{name}' ({_kind(value)})" for name, value in tensors.items()]
    more = f" and {len(kinds) - 3} more" if len(kinds) > 3 else ""
    return (f"kept, and not counted as parameters: {', '.join(kinds[:3])}{more}",)


def _kind(value: torch.Tensor) -> str:
    """Layout and type of a tensor, in torch's words."""
    layout = "" if value.layout == torch.strided else f"{value.layout} "
    return f"{layout}{value.dtype}".replace("torch.", "")


def _bytes_of_other(value: torch.Tensor) -> int:
    """Bytes of a tensor that is not plain, such as a sparse or a quantised one."""
    if _is_overridden(value):
        return 0
    parts = [getattr(value, part)() for part in _PARTS.get(value.layout, ())] or [value]
    return sum(min(part.nbytes, part.untyped_storage().nbytes()) for part in parts)


def attributes_of(state: object) -> dict[str, Any]:
    """The attributes of a state dict: torch keeps the versions of modules there."""
    return dict(vars(state)) if isinstance(state, OrderedDict) else {}
