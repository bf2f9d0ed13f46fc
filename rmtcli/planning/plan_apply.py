"""A plan and a checkpoint: made for it, checked against it, and how to calibrate for it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from rmtcli.checkpoint import Checkpoint
from rmtcli.errors import LayerError, MissingFileError, UsageError
from rmtcli.layers import Layer, Skipped, fingerprint
from rmtcli.layouts import LAYOUTS, Layout, choices_for, undivided
from rmtcli.options import option
from rmtcli.planning.hidden import HiddenLayers
from rmtcli.planning.plan import LayerPlan
from rmtcli.planning.plan_entries import PlannedCalibration, PlannedHidden, PlannedLayer
from rmtcli.planning.plan_file import Plan

if TYPE_CHECKING:
    from rmtcli.calibration import Calibrated, Calibration


def plan_of(
    checkpoint: Checkpoint,
    layers: Sequence[LayerPlan],
    made_by: str,
    calibrated: Calibrated | None,
    applied: Plan | None = None,
    hidden: HiddenLayers | None = None,
    layout: Layout | None = None,
) -> Plan:
    """The plan that leads to these layers.

    Args:
        checkpoint: the dense network.
        layers: the decision on each layer.
        made_by: what decided the ranks, in words.
        calibrated: how the factors were calibrated, or None.
        applied: the plan that was applied, if one was; its hashes have been checked.
        hidden: the hidden layers whose widths were decided, if there are any.
        layout: the layout, if it is one with widths.
    """
    checked = {} if applied is None else {layer.name: layer.sha256 for layer in applied.layers}

    def sha256(item: LayerPlan) -> str:
        known = item.sha256 or checked.get(item.layer.name)
        return known or fingerprint(item.layer.read())

    chosen = layout is not None and len(layout.choices) > 1
    planned = (
        PlannedLayer(
            item.layer.name,
            item.layer.shape,
            sha256(item),
            item.spikes,
            _rank(item),
            item.group,
            LAYOUTS.spell(item.layout) if chosen and _rank(item) is not None else None,
        )
        for item in layers
    )
    calibration = None if calibrated is None else PlannedCalibration.of(calibrated.settings)
    name = None if layout is None else LAYOUTS.spell(layout)
    widths = () if hidden is None else _widths(layers, hidden)
    return Plan(checkpoint.path.name, made_by, calibration, tuple(planned), name, widths)


def _rank(item: LayerPlan) -> int | None:
    """The rank to plan for a layer; None if it stays as it is, or gets narrower and no more."""
    alone = item.untouched is None and (item.narrowed is None or item.ranked)
    return item.rank if alone else None


def _widths(layers: Sequence[LayerPlan], hidden: HiddenLayers) -> tuple[PlannedHidden, ...]:
    """The plan's entries on hidden layers, one per block."""
    shapes = {item.layer.name: item.shape for item in layers}
    blocks = (block for item in hidden.hidden for block in item.blocks)
    return tuple(
        PlannedHidden(
            x.writers, x.readers, x.units, shapes[x.writers[0]][0] // max(1, x.heads), x.heads
        )
        for x in blocks
    )


def widths_of(plan: Plan, hidden: HiddenLayers | None, path: Path) -> list[int]:
    """The planned width of each hidden layer of a checkpoint; others keep theirs.

    Args:
        plan: the plan.
        hidden: the hidden layers; None if the checkpoint has none.
        path: the checkpoint, for messages.

    Raises:
        LayerError: the checkpoint does not have one of the plan's hidden layers, or attention
            heads with one width for all get several.
    """
    wanted = {(x.writers, x.readers, x.units, x.heads): x.width for x in plan.hidden}
    items = () if hidden is None else hidden.hidden
    keys = [[(x.writers, x.readers, x.units, x.heads) for x in i.blocks] for i in items]
    missing = wanted.keys() - {key for group in keys for key in group}
    if missing:
        writers, readers, units, _ = min(missing)
        raise LayerError(
            f"{path}: the plan's hidden layer of {units} units beside "
            f"'{(readers or writers)[0]}' cannot be made narrower: make a new plan"
        )
    widths = [{wanted.get(key, key[2]) for key in group} for group in keys]
    for item, several in zip(items, widths, strict=True):
        if len(several) > 1:
            raise LayerError(
                f"{path}: all attention heads have one width, that of '{item.entry}' in "
                f"config.json, and the plan gives them {len(several)}: edit it"
            )
    return [own for (own,) in widths]


def check_plan(
    plan: Plan, checkpoint: Checkpoint, items: Sequence[Layer | Skipped], layout: Layout
) -> None:
    """Check, before any work, that a plan is for this checkpoint and can be applied.

    Args:
        plan: the plan.
        checkpoint: the dense network.
        items: its layers, and the tensors that are not layers.
        layout: how pruned layers are stored.

    Raises:
        LayerError: a layer that is missing, or is not treated as a layer; one with another shape or
            other weights; a rank that is not possible or would make the checkpoint larger; siblings
            with different ranks; a matrix that is missing.
    """
    layers = {item.name: item for item in items if isinstance(item, Layer)}
    skipped = {item.name: item.reason.value for item in items if isinstance(item, Skipped)}
    for planned in plan.layers:
        where = f"{checkpoint.path}: the plan's layer '{planned.name}'"
        if planned.name not in layers:
            raise LayerError(f"{where} {skipped.get(planned.name, 'is not there')}")
        layer = layers[planned.name]
        if layer.shape != planned.shape:
            old, new = ("×".join(map(str, shape)) for shape in (planned.shape, layer.shape))
            raise LayerError(f"{where}: {old} in the plan, {new} in the file")
        if fingerprint(layer.read()) != planned.sha256:
            raise LayerError(f"{where} holds other weights: make a new plan")
        if planned.rank is not None:
            usual = choices_for(layout, layer)[0]
            own = usual if planned.layout is None else LAYOUTS.parse(planned.layout)
            _check_rank(plan, planned, planned.rank, layer, own, where)
    for name in {name for x in plan.hidden for name in (*x.writers, *x.readers)} - layers.keys():
        raise LayerError(f"{checkpoint.path}: the plan's layer '{name}' is not there")
    for matrix in plan.matrices:
        if matrix.name not in checkpoint.infos:
            raise LayerError(f"{checkpoint.path}: the plan's matrix '{matrix.name}' is not there")


def _check_rank(
    plan: Plan, planned: PlannedLayer, rank: int, layer: Layer, layout: Layout, where: str
) -> None:
    """Check that a layer can be stored at its planned rank, with its group if it has one."""
    if not layout.supports(layer):
        raise LayerError(f"{where}: {undivided(layer).value}")
    outputs, inputs = plan.shape_of(planned)
    groups = plan.groups
    if planned.name in groups:
        first = groups[planned.name]
        members = [other for other in plan.layers if groups.get(other.name) == first]
        if any((other.rank, other.shape[1]) != (rank, inputs) for other in members):
            raise LayerError(
                f"{where} shares its right factor: all of the group '{planned.group}' need "
                "one rank and as many inputs"
            )
        outputs = sum(other.shape[0] for other in members)
    most = layout.largest_rank(outputs, inputs)
    if not 1 <= rank <= most:
        raise LayerError(f"{where} cannot have rank {rank}: it must be from 1 to {most}")


def calibration_of(plan: Plan, given: Calibration) -> Calibration:
    """How to calibrate for a plan: with its own options, and files that may have moved.

    Args:
        plan: the plan.
        given: the user's options; they may only say where the plan's files are now, and which
            folder the run may use.

    Raises:
        UsageError: ``given`` sets what the plan sets, or a file is not the one of the plan.
    """
    from rmtcli.calibration import Calibration, data_sha256, files_of

    planned = plan.calibration
    only_paths = Calibration(given.data, stats=given.stats, spill=given.spill)
    if given != only_paths or (planned is None and given.data):
        raise UsageError("the plan says how to calibrate: edit it there")
    if planned is None:
        return given
    data = given.data or planned.data
    # A plan with data names no file of moments: one that does not exist would be written.
    stats = given.stats or (planned.stats if data is None else None)
    settings = replace(planned.settings(data, stats), spill=given.spill)
    source = data or settings.stats or ""
    missing = next((file for file in files_of(source) if not file.is_file()), None)
    if missing is not None:
        raise MissingFileError(
            f"{missing}: no such file: name the plan's calibration data with {option('calib')}"
        )
    if data_sha256(source) != planned.sha256:
        raise UsageError(f"{source}: not the calibration data that the plan was made with")
    return settings
