"""Torch files that hold nothing out of the ordinary, read without torch."""

from __future__ import annotations

import zipfile
from collections import OrderedDict
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from rmtcli.checkpoint.base import Manifest
from rmtcli.checkpoint.torch.archive import WIDTHS, Archive, Place, entry
from rmtcli.checkpoint.torch.limit import HEADROOM, limited
from rmtcli.checkpoint.torch.script import PlaceReader
from rmtcli.checkpoint.torch.state_dict import MANIFEST_ATTRIBUTE, at, extras_of, find_state_dict


class UnusualError(Exception):
    """The file holds something that only torch should judge."""


class PlainTorchFile(Archive):
    """A zip archive by ``torch.save`` in which each tensor fills a storage of its own.

    Its pickle is read by an unpickler that knows dictionaries and places, and no other callable.
    Whatever else a file holds, be it harmless, damaged or hostile, it is not opened here: torch's
    own reader, which takes a second to import, has the last word.

    Raises:
        UnusualError: it is another kind of file.
    """

    form = "torch file"

    def __init__(self, path: Path) -> None:
        try:
            with limited(HEADROOM + 3 * path.stat().st_size):
                super().__init__(path)
        except OSError:
            raise
        # What an unpickler raises depends on where it stumbles; torch's reader finds the words.
        except Exception as error:
            raise UnusualError(str(error)) from None
        record = Manifest.from_json(self._note)
        self.manifest = record and record.tied(self.ties(self.infos))
        self.extras = self._beside

    def find(self, archive: zipfile.ZipFile) -> Mapping[str, Place]:
        """Every tensor of the state dict."""
        if sum(found.file_size for found in archive.infolist()) > self.path.stat().st_size:
            raise UnusualError("entries that share their bytes")
        folder = f"{self.root}/data/"
        tree = _Reader(entry(archive, f"{self.root}/data.pkl"), folder, _KNOWN).load()
        where = find_state_dict(tree, lambda value: isinstance(value, Place))
        if where is None:
            raise UnusualError("no state dict")
        state = at(tree, where)
        for name, place in state.items():
            if not (isinstance(name, str) and isinstance(place, Place) and place.whole):
                raise UnusualError("an entry that is no tensor")
            if _filled(place) != archive.getinfo(place.entry).file_size:
                raise UnusualError("a tensor that is part of its storage")
        attributes = state.attributes if isinstance(state, _Dict) else {}
        self._note, self._beside = attributes.get(MANIFEST_ATTRIBUTE, ""), extras_of(tree, where)
        return dict(state)


def _filled(place: Place) -> int | None:
    """Bytes of a tensor that lies in its storage in order, from its beginning; None for others."""
    size = 1
    for side, step in zip(reversed(place.shape), reversed(place.stride), strict=True):
        if side != 1 and step != size:
            return None
        size *= side
    return size * WIDTHS[place.dtype] if place.offset == 0 and size > 0 else None


class _Dict(OrderedDict[Any, Any]):
    """Attributes of a state dict are kept apart, so that they take no method's place."""

    attributes: Mapping[str, Any] = {}

    def __setstate__(self, state: Mapping[str, Any]) -> None:
        self.__dict__["attributes"] = dict(state)


class _Reader(PlaceReader):
    def persistent_load(self, pid: Any) -> tuple[str, str]:
        """A storage, which a file of this kind has on the processor."""
        kind, _, _, device, _ = pid
        if kind != "storage" or not str(device).startswith("cpu"):
            raise UnusualError("a storage of another device")
        return super().persistent_load(pid)


def _place(
    storage: tuple[str, str], offset: int, shape: Any, stride: Any, grad: bool, hooks: Any
) -> Place:
    if hooks:
        raise UnusualError("a tensor with hooks")
    return Place(*storage, tuple(shape), tuple(stride), offset)


def _parameter(data: Place, grad: bool, hooks: Any) -> Place:
    if hooks:
        raise UnusualError("a parameter with hooks")
    return data


_KNOWN: Mapping[tuple[str, str], Callable[..., Any]] = {
    ("collections", "OrderedDict"): _Dict,
    ("torch._utils", "_rebuild_tensor_v2"): _place,
    ("torch._utils", "_rebuild_parameter"): _parameter,
}
