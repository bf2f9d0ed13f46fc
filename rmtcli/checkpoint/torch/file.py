"""Files written by ``torch.save``: bare state dicts, and checkpoints with one inside."""

from __future__ import annotations

import errno
import re
import zipfile
from collections import OrderedDict
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import IO, Any, BinaryIO, cast

import numpy as np
import torch
from torch.serialization import get_unsafe_globals_in_checkpoint

from rmtcli.checkpoint.base import Checkpoint, Edited, Edits, Manifest, Opened, TensorInfo
from rmtcli.checkpoint.dtypes import RawTensor
from rmtcli.checkpoint.torch.archive import EXPANDED, reading
from rmtcli.checkpoint.torch.limit import HEADROOM, limited
from rmtcli.checkpoint.torch.plain import PlainTorchFile
from rmtcli.checkpoint.torch.state_dict import (
    MANIFEST_ATTRIBUTE,
    STATE_DICT_KEYS,
    at,
    extras_of,
    find_state_dict,
    word,
)
from rmtcli.errors import CheckpointError, out_of_memory
from rmtcli.files import is_remote

_DTYPES = {
    torch.float64: "F64",
    torch.float32: "F32",
    torch.float16: "F16",
    torch.bfloat16: "BF16",
    torch.int64: "I64",
    torch.int32: "I32",
    torch.int16: "I16",
    torch.int8: "I8",
    torch.uint8: "U8",
    torch.uint16: "U16",
    torch.uint32: "U32",
    torch.uint64: "U64",
    torch.bool: "BOOL",
    torch.float8_e4m3fn: "F8_E4M3",
    torch.float8_e5m2: "F8_E5M2",
}
_TORCH = {name: dtype for dtype, name in _DTYPES.items()}


class TorchFile(Opened):
    """A checkpoint read with ``weights_only=True``: tensors and plain values, no code.

    Attributes:
        tree: the whole loaded object.
        where: keys that lead from ``tree`` to the state dict; empty for a bare one.
    """

    form = "torch file"
    as_stored = True

    def __init__(self, path: Path) -> None:
        self.path = path
        self.tree = _load(path)
        found = find_state_dict(self.tree, _is_plain)
        if found is None:
            raise CheckpointError(
                f"{path}: holds no state dict: save model.state_dict(), bare or under "
                f"one of the keys {', '.join(STATE_DICT_KEYS)}"
            )
        self.where: tuple[str, ...] = found
        self.state: Mapping[Any, Any] = at(self.tree, found)
        if _attributes(self.state).keys() & set(dir(OrderedDict)):
            raise CheckpointError(f"{path}: its state dict has attributes in place of its methods")
        self.infos = {
            name: TensorInfo(tuple(value.shape), _DTYPES[value.dtype])
            for name, value in self.state.items()
            if isinstance(name, str) and _is_plain(value)
        }
        self.extras = extras_of(self.tree, found)
        self.opaque = tuple(word(key) for key in self.state if key not in self.infos)
        self.metadata = {}
        ties = self.ties(self.infos)
        self.shared = frozenset(ties)
        record = Manifest.from_json(getattr(self.state, MANIFEST_ATTRIBUTE, ""))
        self.manifest = record and record.tied(ties)

    def raw(self, name: str) -> RawTensor:
        """The tensor's bytes in C order."""
        info = self.infos[name]
        return RawTensor(info.dtype, info.shape, _bytes(self.state[name]))

    def nbytes(self, name: str) -> int:
        """Size of one tensor."""
        value: torch.Tensor = self.state[name]
        return value.numel() * value.element_size()

    def ties(self, names: Iterable[str]) -> Mapping[str, str]:
        """Tensors that look at the same storage in the same way."""
        first: dict[tuple[object, ...], str] = {}
        ties = {}
        for name in names:
            if not self.infos[name].size:
                continue  # empty tensors share nothing, whatever their address
            place = _place(self.state[name])
            if place in first:
                ties[name] = first[place]
            else:
                first[place] = name
        return ties


def write_torch(checkpoint: Checkpoint, file: BinaryIO) -> None:
    """Write a torch file: the source's own tree where the source is one, else a state dict."""
    source: Checkpoint = checkpoint
    edits: Edits = {}
    if isinstance(checkpoint, Edited):
        source, edits = checkpoint.source, checkpoint.edits
    if isinstance(source, PlainTorchFile):
        source = TorchFile(source.path)  # what stands beside the tensors goes along
    old = source.state if isinstance(source, TorchFile) else source.infos
    state: OrderedDict[Any, Any] = OrderedDict()
    made: dict[int, torch.Tensor] = {}  # one tensor for factors that several names share
    freed = (
        _storages(source.state[name] for name in edits) if isinstance(source, TorchFile) else set()
    )
    ties = {a: b for a, b in source.ties(source.infos).items() if a in source.shared}
    made_whole: dict[tuple[object, ...], torch.Tensor] = {}
    copied: dict[str, torch.Tensor] = {}  # and for names that share one elsewhere
    for name in old:
        if name in edits:
            for new, stored in edits[name].items():
                if id(stored) not in made:
                    made[id(stored)] = to_torch(stored.read())
                state[new] = made[id(stored)]
        elif isinstance(source, TorchFile):
            state[name] = source.state[name]
            if name in source.infos:
                state[name] = _released(state[name], freed, made_whole)
        else:
            twin = ties.get(name, name)
            if twin not in copied:
                copied[twin] = to_torch(source.raw(twin))
            state[name] = copied[twin]
    vars(state).update({k: v for k, v in _attributes(old).items() if k != MANIFEST_ATTRIBUTE})
    if checkpoint.manifest:
        setattr(state, MANIFEST_ATTRIBUTE, checkpoint.manifest.to_json())
    tree = _with(source.tree, source.where, state) if isinstance(source, TorchFile) else state
    watched = _Watched(file)
    try:
        torch.save(tree, cast(IO[bytes], watched))
    except BaseException as error:
        if watched.error is not None:
            raise watched.error from None
        # What came out of a pickle need not go into one: a tensor's hooks may be anything.
        if isinstance(error, TypeError | AttributeError | RecursionError):
            raise CheckpointError(f"{source.path}: cannot be written by torch: {error}") from None
        raise


class _Watched:
    """A file that remembers why it could not be written: torch makes another error of it.

    Attributes:
        error: a full disk, an interrupt; None where all went well.
    """

    def __init__(self, file: BinaryIO) -> None:
        self.file = file
        self.error: BaseException | None = None

    def write(self, data: Any) -> int:
        """Write, or fail as the file does."""
        try:
            return self.file.write(data)
        except BaseException as error:
            self.error = self.error or error
            raise

    def flush(self) -> None:
        """Nothing: who made the file brings it to the disk."""


def to_torch(raw: RawTensor) -> torch.Tensor:
    """A torch tensor of its own with the bytes of ``raw``.

    Raises:
        CheckpointError: torch has no such type.
    """
    if raw.dtype not in _TORCH:
        raise CheckpointError(f"a tensor of type {raw.dtype} cannot be held by torch")
    if not raw.data.size:
        return torch.empty(raw.shape, dtype=_TORCH[raw.dtype])
    data = torch.from_numpy(np.array(raw.data))
    return data.view(_TORCH[raw.dtype]).reshape(raw.shape)


def _load(path: Path) -> Any:
    try:
        with path.open("rb") as file:
            if zipfile.is_zipfile(file):
                _check_entries(path)
            # torch maps files by name, and only names that are text; others are read.
            named = not is_remote(path) and str(path).isprintable()
            mapped = named and zipfile.is_zipfile(file)
            file.seek(0)
            source = path if mapped else file
            # What is not mapped is read and copied.
            with limited(HEADROOM + 3 * path.stat().st_size):
                return torch.load(source, map_location="cpu", weights_only=True, mmap=mapped)
    except CheckpointError:
        raise
    except OSError as error:
        if error.errno != errno.EINVAL:  # a place before the beginning, to which a table points
            raise
        raise CheckpointError(f"{path}: {_explain('')}") from None
    # What torch raises on bytes that are no checkpoint depends on where it stumbles.
    except Exception as error:
        if out_of_memory(error):
            raise CheckpointError(
                f"{path}: reading it takes more memory than there is, or than a file of its size "
                "should"
            ) from None
        raise CheckpointError(f"{path}: {_explain(str(error), path)}") from None


def _check_entries(path: Path) -> None:
    """Refuse what unpacks to more than the file has; torch itself compresses nothing.

    Raises:
        CheckpointError: the archive is damaged, or some entry is compressed or shares its bytes.
    """
    try:
        with reading(path) as archive:
            entries = archive.infolist()
    except zipfile.BadZipFile as error:
        raise CheckpointError(f"{path}: {_explain('')} ({error})") from None
    if any(found.compress_type != zipfile.ZIP_STORED for found in entries):
        raise CheckpointError(f"{path}: is a compressed archive, which torch does not write")
    if sum(found.file_size for found in entries) > path.stat().st_size:
        raise CheckpointError(f"{path}: its entries are larger than the file: it is damaged")


def _explain(message: str, path: Path | None = None) -> str:
    """One line for what torch says in many, with the names that the file's pickle calls for."""
    wanted = re.search(r"(?:GLOBAL|class) ([\w.]+)", message)
    if "TorchScript" in message:
        return "a TorchScript archive: save model.state_dict() instead"
    if wanted and ("Unsupported" in message or "weights_only" in message.lower()):
        return (
            f"refused: its pickle calls for {_listed(wanted[1], path)}, and only tensors and plain "
            "values are read (nothing was run): save model.state_dict() instead"
        )
    return "not a whole torch checkpoint: it is damaged, cut short or of another format"


def _listed(first: str, path: Path | None, most: int = 5) -> str:
    """What loading would run: the name that torch stumbled over, and others in the pickle."""
    try:
        # Read from the opcodes, without loading. An older format has no list, nor a damaged file.
        found = [] if path is None else get_unsafe_globals_in_checkpoint(path)
    except Exception:
        found = []
    names = [first, *(name for name in sorted(found) if name != first)]
    more = f" and {len(names) - most} more" if len(names) > most else ""
    return ", ".join(names[:most]) + more


def _is_plain(value: object) -> bool:
    """Whether a value is an ordinary dense tensor of a type with a name in safetensors."""
    return (
        isinstance(value, torch.Tensor)
        and value.layout == torch.strided
        and value.device.type == "cpu"
        and value.dtype in _DTYPES
        and not vars(value).keys() & set(dir(torch.Tensor))
        and value.nbytes <= max(value.untyped_storage().nbytes(), EXPANDED)
    )


def _with(tree: Any, where: tuple[str, ...], state: object) -> Any:
    """A shallow copy of ``tree`` in which ``state`` stands at ``where``."""
    if not where:
        return state
    copy = OrderedDict(tree) if isinstance(tree, OrderedDict) else dict(tree)
    copy[where[0]] = _with(tree[where[0]], where[1:], state)
    return copy


def _place(value: torch.Tensor) -> tuple[object, ...]:
    """Where a tensor looks, and how: equal for tensors that share their entries."""
    storage = value.untyped_storage().data_ptr()
    return storage, value.storage_offset(), tuple(value.shape), value.stride()


def _storages(values: Iterable[torch.Tensor]) -> set[int]:
    return {value.untyped_storage().data_ptr() for value in values}


def _released(
    value: torch.Tensor, freed: set[int], copies: dict[tuple[object, ...], torch.Tensor]
) -> torch.Tensor:
    """The tensor, or a copy where it would keep a storage in the file that replaced ones left."""
    storage = value.untyped_storage()
    if storage.data_ptr() not in freed or storage.nbytes() == value.nbytes:
        return value
    return copies.setdefault(_place(value), value.detach().clone())


def _attributes(state: object) -> dict[str, Any]:
    """What an OrderedDict carries beside its entries: torch keeps module versions there."""
    return dict(vars(state)) if isinstance(state, OrderedDict) else {}


def _bytes(value: torch.Tensor) -> np.ndarray:
    flat = value.detach().resolve_neg().contiguous().reshape(-1)
    data: np.ndarray = flat.view(torch.uint8).numpy() if flat.numel() else np.zeros(0, np.uint8)
    return data
