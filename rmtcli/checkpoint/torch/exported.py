"""``torch.export`` archives: the weights of an exported program, without its graph."""

from __future__ import annotations

import json
import zipfile
from collections.abc import Mapping
from typing import Any

from rmtcli.checkpoint.dtypes import TYPES
from rmtcli.checkpoint.torch.archive import Archive, StorageView, entry
from rmtcli.errors import CheckpointError

_TYPES = {dtype.exported: name for name, dtype in TYPES.items() if dtype.exported is not None}
_FOLDER = "data/weights/"
_SUFFIX = "_weights_config.json"


class ExportedFile(Archive):
    """A program that ``torch.export.save`` wrote."""

    form = "torch.export archive"

    def find(self, archive: zipfile.ZipFile) -> Mapping[str, StorageView]:
        """The weights in the archive's own table."""
        start = f"{self.root}/{_FOLDER}"
        tables = [n for n in archive.namelist() if n.startswith(start) and n.endswith(_SUFFIX)]
        if len(tables) != 1:
            raise CheckpointError(
                f"{self.path}: holds no table of weights of one model: export it again with "
                "torch 2.9 or newer, or save model.state_dict() instead"
            )
        try:
            weights = json.loads(entry(archive, tables[0]))["config"]
            types = {name: item["tensor_meta"]["dtype"] for name, item in weights.items()}
            unknown = {name: number for name, number in types.items() if number not in _TYPES}
            views = {n: _view(start, item) for n, item in weights.items() if n not in unknown}
        except (ValueError, TypeError, KeyError, AttributeError, RecursionError):
            raise CheckpointError(f"{self.path}: its table of weights is damaged") from None
        for name, number in unknown.items():
            raise CheckpointError(
                f"{self.path}: '{name}' is of torch's type number {number}, which rmtcli does not "
                "know: save model.state_dict() instead"
            )
        return views


def _view(folder: str, item: Mapping[str, Any]) -> StorageView:
    """The view that an item of the table describes.

    Raises:
        ValueError: the weight is stored as a pickle.
    """
    if item["use_pickle"]:
        raise ValueError("a pickle")
    meta = item["tensor_meta"]
    shape, stride = (tuple(int(n["as_int"]) for n in meta[key]) for key in ("sizes", "strides"))
    offset = int(meta["storage_offset"]["as_int"])
    return StorageView(f"{folder}{item['path_name']}", _TYPES[meta["dtype"]], shape, stride, offset)
