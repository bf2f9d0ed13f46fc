"""Writing files by ``torch.save``."""

from __future__ import annotations

from collections import Counter, OrderedDict
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import IO, Any, BinaryIO, cast

import torch

from rmtcli.checkpoint.base import Checkpoint
from rmtcli.checkpoint.edited import Edited, Edits
from rmtcli.checkpoint.spill import Stored
from rmtcli.checkpoint.torch.file import TorchFile, attributes_of, to_torch
from rmtcli.checkpoint.torch.plain import PlainTorchFile
from rmtcli.checkpoint.torch.state_dict import MANIFEST_ATTRIBUTE
from rmtcli.checkpoint.torch.tensors import storage_key
from rmtcli.checkpoint.unpacked import Unpacked
from rmtcli.errors import CheckpointError

#: A state dict's entries: tensors, and in a torch file's own perhaps other values under other keys.
Entries = Iterable[tuple[Any, Any]]


def write_torch(checkpoint: Checkpoint, file: BinaryIO) -> None:
    """Write a torch file: the source's own tree if the source is a torch file, else a state dict.

    Raises:
        CheckpointError: torch has no such type, or cannot pickle an object in the source's tree.
    """
    source: Checkpoint = checkpoint
    edits: Edits = {}
    if isinstance(checkpoint, Edited):
        source, edits = checkpoint.source, checkpoint.edits
    if isinstance(source, Unpacked):
        edits = source.edits_of_file(edits)
        source = source.file
    if isinstance(source, PlainTorchFile):
        source = TorchFile(source.path, source.key)  # its tree holds the objects beside the tensors
    new = _NewTensors()
    state: OrderedDict[Any, Any]
    if isinstance(source, TorchFile):
        state = OrderedDict(_own_entries(source, edits, new))
        vars(state).update(attributes_of(source.state))
        vars(state).pop(MANIFEST_ATTRIBUTE, None)
        tree = _replaced(source.tree, source.where, state)
    else:
        tree = state = OrderedDict(_converted_entries(source, edits, new))
    if checkpoint.manifest:
        setattr(state, MANIFEST_ATTRIBUTE, checkpoint.manifest.to_json())
    _save(tree, file, source.path)


def _own_entries(source: TorchFile, edits: Edits, new: _NewTensors) -> Entries:
    """The entries of a torch file's own state dict, after the edits.

    A view would keep its whole storage in the file. Where the views that stay are smaller than
    their storage, they are copied.
    """
    views = {
        storage_key(value): value
        for name, value in source.state.items()
        if name in source.infos and name not in edits
    }
    used = Counter[int]()
    for value in views.values():
        used[_storage_of(value)] += value.nbytes
    copies: dict[tuple[object, ...], torch.Tensor] = {}
    for name, value in source.state.items():
        key = storage_key(value) if name in source.infos else ()
        if name in edits:
            yield from new.of(edits[name])
        elif key in views and used[_storage_of(value)] < value.untyped_storage().nbytes():
            yield name, copies.setdefault(key, value.detach().clone())
        else:
            yield name, value


def _converted_entries(source: Checkpoint, edits: Edits, new: _NewTensors) -> Entries:
    """The tensors of a checkpoint of another format, after the edits; aliases share a tensor."""
    converted: dict[str, torch.Tensor] = {}
    for name in source.infos:
        if name in edits:
            yield from new.of(edits[name])
            continue
        stored = source.aliases.get(name, name)
        if stored not in converted:
            converted[stored] = to_torch(source.raw(stored), stored)
        yield name, converted[stored]


class _NewTensors:
    """Torch tensors of edits; a factor that several names share is one tensor."""

    def __init__(self) -> None:
        self._made: dict[int, torch.Tensor] = {}

    def of(self, group: Mapping[str, Stored]) -> Iterator[tuple[str, torch.Tensor]]:
        """The tensors that replace one, by name."""
        for name, stored in group.items():
            if id(stored) not in self._made:
                self._made[id(stored)] = to_torch(stored.read())
            yield name, self._made[id(stored)]


def _storage_of(value: torch.Tensor) -> int:
    """The address of a tensor's storage."""
    return value.untyped_storage().data_ptr()


def _replaced(tree: Any, where: tuple[str, ...], state: object) -> Any:
    """A shallow copy of ``tree`` with ``state`` under the keys ``where``."""
    if not where:
        return state
    copy = OrderedDict(tree) if isinstance(tree, OrderedDict) else dict(tree)
    copy[where[0]] = _replaced(tree[where[0]], where[1:], state)
    return copy


def _save(tree: object, file: BinaryIO, source: Path) -> None:
    """Save an object, with the errors that the file and the object cause.

    Raises:
        CheckpointError: torch cannot pickle the object.
    """
    watched = _WatchedFile(file)
    try:
        torch.save(tree, cast(IO[bytes], watched))
    except BaseException as error:
        if watched.error is not None:
            raise watched.error from None
        # Interrupted between two writes, torch still ends its archive, and fails at that.
        if isinstance(error.__context__, KeyboardInterrupt):
            raise error.__context__ from None
        # What came out of a pickle need not go into one: a tensor's hooks may be anything.
        if isinstance(error, TypeError | AttributeError | RecursionError):
            raise CheckpointError(f"{source}: cannot be written by torch: {error}") from None
        raise


class _WatchedFile:
    """A file that remembers why it could not be written: torch raises another error instead.

    Attributes:
        error: the first error, such as a full disk or an interrupt; None without one.
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
        """Do nothing: whoever opened the file flushes it."""
