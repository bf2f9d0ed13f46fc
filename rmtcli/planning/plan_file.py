"""A plan as a file: which rank each layer gets, to be read, edited, compared and carried out."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from rmtcli.calibration import Calibrated, Calibration
from rmtcli.checkpoint import Checkpoint
from rmtcli.checkpoint.hashes import file_sha256
from rmtcli.errors import LayerError, UsageError
from rmtcli.keep import Untouched
from rmtcli.layers import Layer, Skipped, fingerprint
from rmtcli.layouts import Layout
from rmtcli.planning.plan import LayerPlan

VERSION = 1  #: of the file's layout


@dataclass(frozen=True, slots=True)
class PlannedLayer:
    """What a plan says of one layer.

    Attributes:
        name: the weight's name.
        shape: (out, in).
        sha256: hash of the weight's bytes as stored.
        spikes: singular values above the edge, for the reader; nothing depends on it.
        rank: rank to prune it to, or None to leave it alone.
        group: name of one of the layers that share its right factor, the same for all of them;
            None where it has one to itself.
    """

    name: str
    shape: tuple[int, int]
    sha256: str
    spikes: int
    rank: int | None
    group: str | None


@dataclass(frozen=True, slots=True)
class PlannedCalibration:
    """How a plan's factors are calibrated.

    Attributes:
        data: file of inputs, or None.
        stats: file of moments, or None.
        sha256: hash of the data file, or where there is none, of the moments'.
        metric: see :class:`~rmtcli.calibration.base.Calibration`, also for what follows.
        batch: samples at a time.
        sequential: whether layers are fitted once more.
        heal: passes of healing.
    """

    data: str | None
    stats: str | None
    sha256: str
    metric: str
    batch: int
    sequential: bool
    heal: int


@dataclass(frozen=True, slots=True)
class Plan:
    """Ranks for the layers of one checkpoint.

    Attributes:
        source: name of the checkpoint file, for the reader.
        made_by: what decided the ranks, in words, for the reader.
        calibration: how the factors are calibrated, or None for plain truncation.
        layers: every layer of the checkpoint that is known; one that is missing is left alone.
    """

    source: str
    made_by: str
    calibration: PlannedCalibration | None
    layers: tuple[PlannedLayer, ...]

    @property
    def ranks(self) -> dict[str, int]:
        """The ranks of the layers that are to be pruned, by name."""
        return {layer.name: layer.rank for layer in self.layers if layer.rank is not None}

    @property
    def groups(self) -> dict[str, str]:
        """For each layer that is to share its right factor: the first of those that do."""
        members: dict[str, list[str]] = {}
        for layer in self.layers:
            if layer.rank is not None and layer.group is not None:
                members.setdefault(layer.group, []).append(layer.name)
        return {name: names[0] for names in members.values() for name in names if len(names) > 1}

    def to_json(self) -> str:
        """JSON with one line a layer, so that plans can be compared line by line."""
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
        """The plan in a file.

        Raises:
            UsageError: no such file, or not a plan.
        """
        path = Path(path)
        try:
            values: Any = json.loads(path.read_text(encoding="utf-8"))
        except FileNotFoundError:
            raise UsageError(f"{path}: no such file") from None
        except IsADirectoryError:
            raise UsageError(f"{path}: is a directory: name a plan") from None
        except (ValueError, RecursionError) as error:
            raise UsageError(f"{path}: not a plan: {error}") from None
        if not isinstance(values, dict) or values.pop("rmtcli_plan", None) != VERSION:
            raise UsageError(f"{path}: not a plan of this version ('rmtcli_plan': {VERSION})")
        fields = _checked(values, _PLAN, f"{path}")
        if fields["calibration"] is not None:
            given = _checked(fields["calibration"], _CALIBRATION, f"{path}: calibration")
            planned = PlannedCalibration(**given)
            try:
                _settings(planned, planned.data, planned.stats)
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
#: For each field of the file the types it may have.
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
    bool: "true or false",
    _NONE: "null",
}


def _checked(values: Any, wanted: Mapping[str, tuple[type, ...]], where: str) -> dict[str, Any]:
    """The fields of a JSON object, all there, none more, each of a type that it may have."""
    if not isinstance(values, dict):
        raise UsageError(f"{where}: must be an object")
    for key in values.keys() ^ wanted.keys():
        raise UsageError(f"{where}: '{key}' is {'not known' if key in values else 'missing'}")
    for key, types in wanted.items():
        if type(values[key]) not in types:
            words = " or ".join(_WORDS[kind] for kind in types)
            raise UsageError(f"{where}: '{key}' must be {words}")
    return dict(values)


def check_plan(
    plan: Plan, checkpoint: Checkpoint, found: Sequence[Layer | Skipped], layout: Layout
) -> None:
    """Make sure, before any work, that a plan is for this checkpoint and can be carried out.

    Raises:
        LayerError: a layer that is not there, is no layer, has another shape or other weights, or
            a rank that is not possible or would make the checkpoint larger; siblings whose ranks
            differ.
    """
    groups = plan.groups
    layers = {item.name: item for item in found if isinstance(item, Layer)}
    skipped = {item.name: item.reason.value for item in found if isinstance(item, Skipped)}
    for planned in plan.layers:
        where, rank = f"{checkpoint.path}: the plan's layer '{planned.name}'", planned.rank
        if planned.name not in layers:
            raise LayerError(f"{where} {skipped.get(planned.name, 'is not there')}")
        layer = layers[planned.name]
        if layer.shape != planned.shape:
            old, new = ("×".join(map(str, shape)) for shape in (planned.shape, layer.shape))
            raise LayerError(f"{where}: {old} in the plan, {new} in the file")
        if fingerprint(checkpoint, layer) != planned.sha256:
            raise LayerError(f"{where} holds other weights: plan anew")
        if rank is not None and not layout.supports(layer):
            raise LayerError(f"{where}: {Untouched.NO_FACTORS.value}")
        most = layout.largest_rank(*layer.shape)
        if planned.name in groups:
            first = groups[planned.name]
            members = [p for p in plan.layers if groups.get(p.name) == first]
            if any((p.rank, p.shape[1]) != (rank, layer.shape[1]) for p in members):
                raise LayerError(
                    f"{where} shares its right factor: all of the group '{planned.group}' need "
                    "one rank and as many inputs"
                )
            most = layout.largest_rank(sum(p.shape[0] for p in members), layer.shape[1])
        if rank is not None and not 1 <= rank <= most:
            raise LayerError(f"{where} cannot have rank {rank}: it must be from 1 to {most}")


def plan_of(
    checkpoint: Checkpoint,
    layers: Sequence[LayerPlan],
    made_by: str,
    calibrated: Calibrated | None,
) -> Plan:
    """The plan that was carried out."""
    planned = (
        PlannedLayer(
            item.layer.name,
            item.layer.shape,
            fingerprint(checkpoint, item.layer),
            item.spikes,
            item.rank if item.untouched is None else None,
            item.group,
        )
        for item in layers
    )
    settings = None if calibrated is None else _calibration(calibrated.settings)
    return Plan(checkpoint.path.name, made_by, settings, tuple(planned))


def _calibration(settings: Calibration) -> PlannedCalibration:
    data, stats = settings.data, None if settings.data is not None else settings.stats
    source = data or stats
    assert source is not None
    return PlannedCalibration(
        None if data is None else str(data),
        None if stats is None else str(stats),
        file_sha256(Path(source)),
        settings.metric,
        settings.batch,
        settings.sequential,
        settings.heal,
    )


def _settings(
    planned: PlannedCalibration, data: str | Path | None, stats: str | Path | None
) -> Calibration:
    return Calibration(data, planned.metric, planned.batch, stats, planned.sequential, planned.heal)


def calibration_of(plan: Plan, given: Calibration) -> Calibration:
    """How to calibrate for a plan: its own settings; files may have moved to where ``given`` says.

    Raises:
        UsageError: ``given`` sets what the plan sets, or a file is not the one of the plan.
    """
    planned = plan.calibration
    if given != Calibration(given.data, stats=given.stats) or (planned is None and given.data):
        raise UsageError("the plan says how to calibrate: edit it there")
    if planned is None:
        return given
    data = given.data or planned.data
    # A plan with data names no file of moments: one that is not there would be written.
    stats = given.stats or (planned.stats if data is None else None)
    settings = _settings(planned, data, stats)
    source = Path(data or settings.stats or "")
    if not source.is_file():
        raise UsageError(f"{source}: no such file: name the plan's calibration data with --calib")
    if file_sha256(source) != planned.sha256:
        raise UsageError(f"{source}: not the calibration data that the plan was made with")
    return settings
