"""A plan as a file: the rank of each layer, to be read, edited, compared and applied."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from rmtcli.calibration import Calibration, Data, data_sha256
from rmtcli.errors import MissingFileError, UsageError

#: Version of the file format.
VERSION = 1


@dataclass(frozen=True, slots=True)
class PlannedLayer:
    """A plan's entry for one layer.

    Attributes:
        name: the weight's name.
        shape: (out, in).
        sha256: hash of the weight's bytes as stored.
        spikes: number of singular values above the edge, for the reader; nothing depends on it.
        rank: rank to prune it to, or None to leave it alone.
        group: name of one of the layers that share its right factor, equal for all of them; None
            if it has a right factor to itself.
    """

    name: str
    shape: tuple[int, int]
    sha256: str
    spikes: int
    rank: int | None
    group: str | None


@dataclass(frozen=True, slots=True)
class PlannedCalibration:
    """How a plan's factors are calibrated; :class:`Calibration` explains the options.

    Attributes:
        data: file of inputs, or the inputs that are made, with options; or None.
        stats: file of moments, or None.
        sha256: hash of the file of inputs, of inputs that are made, or of the file
            of moments if there are no inputs.
        metric: ``two-sided`` or ``one-sided``.
        batch: samples at a time.
        sequential: whether layers are fitted once more.
        heal: passes of healing.
        heal_minutes: minutes of healing.
        clean: cleaner of the moments, with options.
    """

    data: str | None
    stats: str | None
    sha256: str
    metric: str
    batch: int
    sequential: bool
    heal: int
    heal_minutes: float = 0.0
    clean: str = "none"

    @staticmethod
    def of(settings: Calibration) -> PlannedCalibration:
        """The plan's entry for a calibration that was done; its file is hashed."""
        data = None if settings.data is None else str(settings.data)
        stats = None if settings.stats is None or data is not None else str(settings.stats)
        source = settings.data or stats
        assert source is not None
        return PlannedCalibration(
            data,
            stats,
            data_sha256(source),
            settings.metric,
            settings.batch,
            settings.sequential,
            settings.heal,
            settings.heal_minutes,
            settings.clean,
        )

    def settings(self, data: Data | None, stats: str | Path | None) -> Calibration:
        """The options of this calibration, with files that may have moved.

        Raises:
            UsageError: an option out of range.
        """
        refinement = self.sequential, self.heal, self.heal_minutes, self.clean
        return Calibration(data, self.metric, self.batch, stats, *refinement)


@dataclass(frozen=True, slots=True)
class Plan:
    """Ranks for the layers of one checkpoint.

    Attributes:
        source: name of the checkpoint file, for the reader.
        made_by: what decided the ranks, in words, for the reader.
        calibration: how the factors are calibrated, or None for plain truncation.
        layers: the layers; a layer of the checkpoint that is not among them is left alone.
    """

    source: str
    made_by: str
    calibration: PlannedCalibration | None
    layers: tuple[PlannedLayer, ...]

    @property
    def ranks(self) -> dict[str, int]:
        """The rank of each layer that is to be pruned, by name."""
        return {layer.name: layer.rank for layer in self.layers if layer.rank is not None}

    @property
    def groups(self) -> dict[str, str]:
        """For each layer that is to share its right factor, the first layer of its group."""
        members: dict[str, list[str]] = {}
        for layer in self.layers:
            if layer.rank is not None and layer.group is not None:
                members.setdefault(layer.group, []).append(layer.name)
        return {name: names[0] for names in members.values() for name in names if len(names) > 1}

    def to_json(self) -> str:
        """JSON with one line per layer, so that plans can be compared line by line."""
        head = {
            "rmtcli_plan": VERSION,
            "source": self.source,
            "made_by": self.made_by,
            "calibration": None if self.calibration is None else asdict(self.calibration),
        }
        lines = [f'  "{key}": {json.dumps(value)}' for key, value in head.items()]
        layers = ",\n".join(f"    {json.dumps(asdict(layer))}" for layer in self.layers)
        return "{\n" + ",\n".join(lines) + f',\n  "layers": [\n{layers}\n  ]\n}}\n'

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
        fields = _checked(values, _PLAN, f"{path}")
        if fields["calibration"] is not None:
            # Older plans know neither.
            given = {"heal_minutes": 0.0, "clean": "none"} | fields["calibration"]
            given = _checked(given, _CALIBRATION, f"{path}: calibration")
            planned = PlannedCalibration(**given)
            try:
                planned.settings(planned.data, planned.stats)
            except UsageError as error:
                raise UsageError(f"{path}: calibration: {error}") from None
            fields["calibration"] = planned
        layers = []
        for i, item in enumerate(fields["layers"]):
            values = _checked(item, _LAYER, f"{path}: layers[{i}]")
            if len(values["shape"]) != 2 or not all(type(side) is int for side in values["shape"]):
                raise UsageError(f"{path}: layers[{i}]: 'shape' must be two whole numbers")
            layers.append(PlannedLayer(**values | {"shape": tuple(values["shape"])}))
        names = [layer.name for layer in layers]
        twice = next((name for name in names if names.count(name) > 1), None)
        if twice is not None:
            raise UsageError(f"{path}: layer '{twice}' is there twice")
        return Plan(**fields | {"layers": tuple(layers)})


_NONE = type(None)
#: Types that each field of the file may have.
_PLAN: dict[str, tuple[type, ...]] = {
    "source": (str,),
    "made_by": (str,),
    "calibration": (dict, _NONE),
    "layers": (list,),
}
_CALIBRATION: dict[str, tuple[type, ...]] = {
    "data": (str, _NONE),
    "stats": (str, _NONE),
    "sha256": (str,),
    "metric": (str,),
    "batch": (int,),
    "sequential": (bool,),
    "heal": (int,),
    "heal_minutes": (float, int),
    "clean": (str,),
}
_LAYER: dict[str, tuple[type, ...]] = {
    "name": (str,),
    "shape": (list,),
    "sha256": (str,),
    "spikes": (int,),
    "rank": (int, _NONE),
    "group": (str, _NONE),
}
_WORDS = {
    str: "text",
    dict: "an object",
    list: "a list",
    int: "a whole number",
    float: "a number",
    bool: "true or false",
    _NONE: "null",
}


def _checked(values: Any, wanted: Mapping[str, tuple[type, ...]], where: str) -> dict[str, Any]:
    """The fields of a JSON object, after a check that they are complete, known and well typed."""
    if not isinstance(values, dict):
        raise UsageError(f"{where}: must be an object")
    for key in values.keys() ^ wanted.keys():
        raise UsageError(f"{where}: '{key}' is {'not known' if key in values else 'missing'}")
    for key, types in wanted.items():
        if type(values[key]) not in types:
            words = " or ".join(_WORDS[kind] for kind in types)
            raise UsageError(f"{where}: '{key}' must be {words}")
    return dict(values)
