"""The entries of a plan's file, and how each is read."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rmtcli.errors import UsageError
from rmtcli.quantization import ERRORS, GROUP, Grid

if TYPE_CHECKING:
    from rmtcli.calibration import Calibration, Data

#: The fewest neighbours that may share a scale.
_LEAST_GROUP = 16


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
        layout: how it is stored at this rank, if the plan's layout leaves a choice.
    """

    name: str
    shape: tuple[int, int]
    sha256: str
    spikes: int
    rank: int | None
    group: str | None
    layout: str | None = None


@dataclass(frozen=True, slots=True)
class PlannedHidden:
    """A plan's entry for one hidden layer.

    Attributes:
        writers: names of the layers that write its units.
        readers: names of the layers that read them.
        units: its dense width; of attention, the units of each head.
        width: the width to give it.
        heads: number of attention heads; 0 for a hidden layer without any.
    """

    writers: tuple[str, ...]
    readers: tuple[str, ...]
    units: int
    width: int
    heads: int = 0

    def to_dict(self) -> dict[str, Any]:
        """The entry in the file, which names heads only where there are some."""
        return {key: value for key, value in asdict(self).items() if key != "heads" or value}

    def sides(self) -> int:
        """Rows of the writers and columns of the readers."""
        return self.width * max(1, self.heads)


@dataclass(frozen=True, slots=True)
class PlannedMatrix:
    """A plan's entry for one matrix in few bits, whether or not it is a layer.

    Attributes:
        name: the tensor's name in the dense network.
        bits: bits per entry of all matrices that take its place.
        group: neighbours that share a scale.
    """

    name: str
    bits: int
    group: int = GROUP

    @property
    def grid(self) -> Grid:
        """The grid to which it is rounded."""
        return Grid(self.bits, self.group)


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
        from rmtcli.calibration import data_sha256

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
        from rmtcli.calibration import Calibration

        refinement = self.sequential, self.heal, self.heal_minutes, self.clean
        return Calibration(data, self.metric, self.batch, stats, *refinement)


def calibration_entry(given: dict[str, Any] | None, path: Path) -> PlannedCalibration | None:
    """The plan's entry on calibration.

    Raises:
        UsageError: it is wrong.
    """
    if given is None:
        return None
    # Older plans know neither.
    given = {"heal_minutes": 0.0, "clean": "none"} | given
    planned = PlannedCalibration(**checked(given, _CALIBRATION, f"{path}: calibration"))
    try:
        planned.settings(planned.data, planned.stats)
    except UsageError as error:
        raise UsageError(f"{path}: calibration: {error}") from None
    return planned


def layer_entry(item: Any, wanted: Mapping[str, tuple[type, ...]], where: str) -> PlannedLayer:
    """The plan's entry on a layer.

    Raises:
        UsageError: it is wrong.
    """
    values = checked(item, wanted, where)
    if len(values["shape"]) != 2 or not all(type(side) is int for side in values["shape"]):
        raise UsageError(f"{where}: 'shape' must be two whole numbers")
    return PlannedLayer(**values | {"shape": tuple(values["shape"])})


def hidden_entry(item: Any, index: int, path: Path) -> PlannedHidden:
    """The plan's entry on a hidden layer.

    Raises:
        UsageError: it is wrong.
    """
    where = f"{path}: hidden[{index}]"
    if isinstance(item, dict):
        item = {"heads": 0} | item  # older plans do not know attention
    values = checked(item, _HIDDEN, where)
    for key in ("writers", "readers"):
        missing = not values[key] and not (key == "readers" and values["heads"])
        if missing or not all(type(name) is str for name in values[key]):
            raise UsageError(f"{where}: '{key}' must be names of layers")
        values[key] = tuple(values[key])
    if not 1 <= values["width"] <= values["units"]:
        raise UsageError(f"{where}: 'width' must be from 1 to 'units', {values['units']}")
    if values["heads"] < 0:
        raise UsageError(f"{where}: 'heads' must be at least 0")
    return PlannedHidden(**values)


def matrix_entry(item: Any, index: int, path: Path) -> PlannedMatrix:
    """The plan's entry on a matrix in few bits.

    Raises:
        UsageError: it is wrong.
    """
    where = f"{path}: matrices[{index}]"
    values = checked(item, _MATRIX, where)
    if values["bits"] not in ERRORS:
        raise UsageError(f"{where}: 'bits' must be one of {', '.join(map(str, ERRORS))}")
    group = values["group"]
    if group < _LEAST_GROUP or group & (group - 1):
        raise UsageError(f"{where}: 'group' must be a power of two, at least {_LEAST_GROUP}")
    return PlannedMatrix(**values)


NONE = type(None)
#: Types that each field of an entry may have.
_CALIBRATION: dict[str, tuple[type, ...]] = {
    "data": (str, NONE),
    "stats": (str, NONE),
    "sha256": (str,),
    "metric": (str,),
    "batch": (int,),
    "sequential": (bool,),
    "heal": (int,),
    "heal_minutes": (float, int),
    "clean": (str,),
}
LAYER: dict[str, tuple[type, ...]] = {
    "name": (str,),
    "shape": (list,),
    "sha256": (str,),
    "spikes": (int,),
    "rank": (int, NONE),
    "group": (str, NONE),
}
_HIDDEN: dict[str, tuple[type, ...]] = {
    "writers": (list,),
    "readers": (list,),
    "units": (int,),
    "width": (int,),
    "heads": (int,),
}
_MATRIX: dict[str, tuple[type, ...]] = {"name": (str,), "bits": (int,), "group": (int,)}
_WORDS = {
    str: "text",
    dict: "an object",
    list: "a list",
    int: "a whole number",
    float: "a number",
    bool: "true or false",
    NONE: "null",
}


def checked(values: Any, wanted: Mapping[str, tuple[type, ...]], where: str) -> dict[str, Any]:
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
