"""``torch.export`` archives: the weights of an exported program, without its graph."""

from __future__ import annotations

import json
import zipfile
from collections.abc import Mapping
from typing import Any

from rmtcli.checkpoint.torch.archive import Archive, StorageView, entry
from rmtcli.errors import CheckpointError

#: torch's numbers for types, in the archive's own schema.
_TYPES = {
    1: "U8",
    2: "I8",
    3: "I16",
    4: "I32",
    5: "I64",
    6: "F16",
    7: "F32",
    8: "F64",
    12: "BOOL",
    13: "BF16",
    28: "U16",
    29: "F8_E4M3",
    30: "F8_E5M2",
    34: "U32",
    35: "U64",
}
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
            return {name: _view(start, item) for name, item in weights.items()}
        except (ValueError, TypeError, KeyError, AttributeError, RecursionError):
            raise CheckpointError(f"{self.path}: its table of weights is damaged") from None


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
