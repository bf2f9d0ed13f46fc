"""A plan as a file: ranks, widths and bits, to be read, edited and applied."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from rmtcli.errors import MissingFileError, UsageError
from rmtcli.planning.plan_entries import (
    LAYER,
    NONE,
    PlannedCalibration,
    PlannedHidden,
    PlannedLayer,
    PlannedMatrix,
    calibration_entry,
    checked,
    hidden_entry,
    layer_entry,
    matrix_entry,
)
from rmtcli.quantization import Grid

#: Version of the file format.
VERSION = 1
#: Types that each field of the file may have.
_PLAN: dict[str, tuple[type, ...]] = {
    "source": (str,),
    "made_by": (str,),
    "calibration": (dict, NONE),
    "layers": (list,),
    "layout": (str, NONE),
    "hidden": (list,),
    "matrices": (list,),
}


@dataclass(frozen=True, slots=True)
class Plan:
    """Ranks for the layers of one checkpoint.

    Attributes:
        source: name of the checkpoint file, for the reader.
        made_by: what decided the ranks, in words, for the reader.
        calibration: how the factors are calibrated, or None for plain truncation.
        layers: the layers; a layer of the checkpoint that is not among them is left alone.
        layout: the layout that it is for, if that is one with widths; else that of ``--layout``.
        hidden: the hidden layers; one of the checkpoint that is not among them keeps its width.
        matrices: the matrices that are stored in few bits; all others keep their type.
    """

    source: str
    made_by: str
    calibration: PlannedCalibration | None
    layers: tuple[PlannedLayer, ...]
    layout: str | None = None
    hidden: tuple[PlannedHidden, ...] = ()
    matrices: tuple[PlannedMatrix, ...] = ()

    def shape_of(self, layer: PlannedLayer) -> tuple[int, int]:
        """(out, in) of a layer at the planned widths."""
        rows, columns = layer.shape
        for item in self.hidden:
            rows = item.sides() if layer.name in item.writers else rows
            columns = item.sides() if layer.name in item.readers else columns
        return rows, columns

    @property
    def ranks(self) -> dict[str, int]:
        """The rank of each layer that is to be pruned, by name."""
        return {layer.name: layer.rank for layer in self.layers if layer.rank is not None}

    @property
    def grids(self) -> dict[str, Grid]:
        """The grid of each matrix in few bits, by the name of its tensor."""
        return {matrix.name: matrix.grid for matrix in self.matrices}

    def in_few_bits(self, grids: Mapping[str, Grid]) -> Plan:
        """The plan with these matrices in few bits.

        Args:
            grids: the grid of each, by the name of its tensor in the dense network.
        """
        entries = (PlannedMatrix(name, grid.bits, grid.group) for name, grid in grids.items())
        return replace(self, matrices=tuple(entries))

    @property
    def groups(self) -> dict[str, str]:
        """For each layer that is to share its right factor, the first layer of its group."""
        members: dict[str, list[str]] = {}
        for layer in self.layers:
            if layer.rank is not None and layer.group is not None:
                members.setdefault(layer.group, []).append(layer.name)
        return {name: names[0] for names in members.values() for name in names if len(names) > 1}

    def to_json(self) -> str:
        """JSON with one line per entry, so that plans can be compared line by line."""
        head = {
            "rmtcli_plan": VERSION,
            "source": self.source,
            "made_by": self.made_by,
            "calibration": None if self.calibration is None else asdict(self.calibration),
        }
        lists: dict[str, list[dict[str, Any]]] = {"layers": [asdict(x) for x in self.layers]}
        if self.layout is None:
            for item in lists["layers"]:
                del item["layout"]
        else:
            head["layout"] = self.layout
            lists = {"hidden": [x.to_dict() for x in self.hidden]} | lists
        if self.matrices:
            lists["matrices"] = [asdict(x) for x in self.matrices]
        parts = [f'  "{key}": {json.dumps(value)}' for key, value in head.items()]
        for key, items in lists.items():
            lines = ",\n".join(f"    {json.dumps(item)}" for item in items)
            parts.append(f'  "{key}": [\n{lines}\n  ]')
        return "{\n" + ",\n".join(parts) + "\n}\n"

    @staticmethod
    def read(path: str | Path) -> Plan:
        """Read the plan in a file.

        Raises:
            UsageError: no such file, or not a plan.
        """
        path = Path(path)
        try:
            values: Any = json.loads(path.read_text(encoding="utf-8"))
        except FileNotFoundError:
            raise MissingFileError(f"{path}: no such file") from None
        except IsADirectoryError:
            raise UsageError(f"{path}: is a directory: name a plan") from None
        except (ValueError, RecursionError) as error:
            raise UsageError(f"{path}: not a plan: {error}") from None
        if not isinstance(values, dict) or values.pop("rmtcli_plan", None) != VERSION:
            raise UsageError(f"{path}: not a plan of this version ('rmtcli_plan': {VERSION})")
        wanted = LAYER | ({"layout": (str, NONE)} if "layout" in values else {})
        if "layout" not in values:  # an ordinary plan
            values = values | {"layout": None, "hidden": []}
        fields = checked({"matrices": []} | values, _PLAN, f"{path}")
        fields["calibration"] = calibration_entry(fields["calibration"], path)
        fields["hidden"] = tuple(hidden_entry(x, i, path) for i, x in enumerate(fields["hidden"]))
        layers = [
            layer_entry(x, wanted, f"{path}: layers[{i}]") for i, x in enumerate(fields["layers"])
        ]
        matrices = [matrix_entry(x, i, path) for i, x in enumerate(fields["matrices"])]
        for kind, entries in (("layer", layers), ("matrix", matrices)):
            twice = [x for x, count in Counter(e.name for e in entries).items() if count > 1]
            if twice:
                raise UsageError(f"{path}: {kind} '{twice[0]}' is there twice")
        return Plan(**fields | {"layers": tuple(layers), "matrices": tuple(matrices)})
