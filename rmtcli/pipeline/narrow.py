"""Make hidden layers narrower: find them, order their units, and make networks of any size."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, cast

from rmtcli.calibration import (
    HeadNarrowing,
    Narrowing,
    narrow_queries,
    narrow_units,
    narrow_values,
)
from rmtcli.errors import LayerError, UsageError
from rmtcli.evaluation import Harness
from rmtcli.layers import Block, Layer, Skipped
from rmtcli.options import option
from rmtcli.pipeline.request import Request
from rmtcli.planning import HiddenLayer, HiddenLayers, LayerCalibration

if TYPE_CHECKING:
    from rmtcli.evaluation.pretrained import Pretrained
    from rmtcli.running.calibrate import CalibrationInputs


def _check_narrow(request: Request) -> None:
    """Make sure that hidden layers can be made narrower with these options.

    Raises:
        UsageError: they cannot.
    """
    goal, settings = request.goal, request.calibration
    if goal.plan is not None and goal.plan.layout is None:
        raise UsageError(
            f"the plan has ranks and no widths: leave out {option('layout', 'narrow')}"
        )
    if not (goal.joint or goal.plan):
        raise UsageError(
            f"{option('layout', 'narrow')} divides a budget: give {option('budget')} or "
            f"{option('max-drop')}"
        )
    if settings.data is None:
        raise UsageError(
            f"{option('layout', 'narrow')} runs the network to find its hidden layers and choose "
            f"their units: give inputs with {option('calib')}"
        )
    if settings.sequential:
        raise UsageError(
            f"{option('layout', 'narrow')} fits what reads the units in closed form: leave out "
            f"{option('sequential')}; {option('heal')} and {option('heal-minutes')} train it"
        )
    if goal.share_inputs:
        raise UsageError(
            f"{option('layout', 'narrow')} has no factors to share: leave out "
            f"{option('share-inputs')}"
        )
    if goal.budget is not None and goal.budget.unit == "ms":
        raise UsageError(
            f"{option('budget-latency')} times factors, and {option('layout', 'narrow')} has "
            f"none: give {option('budget-macs')}"
        )


def check_widths(request: Request) -> None:
    """Make sure that hidden layers can get the widths that these options ask for.

    Raises:
        UsageError: they cannot.
    """
    if not request.layout.ranks:
        _check_narrow(request)
    if request.goal.per_block and not request.layout.narrows:
        raise UsageError(
            f"{option('per-block')} gives hidden layers widths of their own: give "
            f"{option('layout', 'narrow')} or auto"
        )


def hidden_layers(
    harness: Harness,
    request: Request,
    items: Sequence[Layer | Skipped],
    calibrations: Mapping[str, LayerCalibration],
) -> HiddenLayers | None:
    """Find the hidden layers and order their units.

    In a directory, hidden layers whose width is one entry of the configuration get one width,
    unless the goal asks for one per block.

    Returns:
        None if there are none, in a layout in which layers also get ranks.

    Raises:
        LayerError: there are none, and nothing else could be done.
        EvaluationError: the network cannot be built or fed.
    """
    from rmtcli.evaluation.network import build  # needs torch
    from rmtcli.running.blocks import find_blocks
    from rmtcli.running.calibrate import CalibrationInputs
    from rmtcli.running.entries import entries_of, resizable

    layers = {item.name: item for item in items if isinstance(item, Layer)}
    model, source = build(harness), CalibrationInputs.read(request.calibration, harness)
    blocks = [
        block
        for block in find_blocks(model, harness.checkpoint, list(layers.values()), source)
        if calibrations.keys() >= set(block.readers)
    ]
    groups: list[tuple[list[Block], str | None]] = [([block], None) for block in blocks]
    if harness.transformers:
        pretrained = cast("Pretrained", model)
        named = entries_of(pretrained, blocks)
        groups = [(some, entry) for entry, some in named.items()]
        if request.goal.per_block or request.goal.plan:
            known = {block: entry for some, entry in groups for block in some}
            groups = [([block], known.get(block)) for block in resizable(pretrained, blocks)]
    if harness.pretrained:
        groups += _heads(cast("Pretrained", model), harness, source, layers, calibrations)
    hidden = [_hidden(some, layers, calibrations, entry) for some, entry in groups]
    if not hidden and request.layout.ranks:
        return None
    if not hidden:
        stock = harness.transformers and not (request.goal.per_block or request.goal.plan)
        entry = " and whose width is an entry of config.json" if stock else ""
        raise LayerError(
            f"{harness.checkpoint.path}: has no hidden layer that can be made narrower: one whose "
            f"units only the layers beside it write and read, each unit on its own{entry}"
        )
    pairs = (block for some, _ in groups for block in some)
    around = frozenset(name for block in (*blocks, *pairs) for name in block.layers)
    return HiddenLayers(harness.checkpoint, layers, tuple(hidden), around, harness.transformers)


def _heads(
    model: Pretrained,
    harness: Harness,
    source: CalibrationInputs,
    layers: Mapping[str, Layer],
    calibrations: Mapping[str, LayerCalibration],
) -> list[tuple[list[Block], str | None]]:
    """The pairs of layers around attention heads, by the entry that is the size of a head.

    An entry of which some pairs were not calibrated is left alone, because it resizes them all.
    """
    from rmtcli.running.heads import find_heads

    groups = find_heads(model, harness.checkpoint, list(layers.values()), source)
    return [
        (pairs, entry)
        for entry, pairs in groups.items()
        if all(calibrations.keys() >= set(block.layers) for block in pairs)
    ]


def on_kept_widths(request: Request) -> str:
    """That no hidden layer became narrower, and why."""
    if request.shares:
        why = f"leave out {option('share-inputs')} to make them narrower"
    elif request.narrows:
        why = "none can be made narrower"
    elif request.goal.joint:
        why = f"finding those that can be made narrower needs inputs: give {option('calib')}"
    else:
        why = (
            f"give {option('budget')} or {option('max-drop')}, and inputs with {option('calib')}, "
            "to make them narrower"
        )
    return f"hidden layers keep their widths: {why}"


def _hidden(
    blocks: Sequence[Block],
    layers: Mapping[str, Layer],
    calibrations: Mapping[str, LayerCalibration],
    entry: str | None = None,
) -> HiddenLayer:
    made = [_narrowing(block, layers, calibrations) for block in blocks]
    return HiddenLayer(tuple(blocks), tuple(made), entry)


def _narrowing(
    block: Block, layers: Mapping[str, Layer], calibrations: Mapping[str, LayerCalibration]
) -> Narrowing | HeadNarrowing:
    """The order of the units of one block."""
    known = [calibrations[name] for name in block.readers or block.writers]
    gradients, bias = (all(getattr(x, key) for x in known) for key in ("gradients", "bias"))
    weights = [layers[name].load() for name in (block.layers if block.heads else block.readers)]
    own = [item.moments for item in known]
    if not block.heads:
        return narrow_units(weights, own, bias=bias, gradients=gradients)
    first, second = weights
    if block.readers:
        options = {"bias": bias, "gradients": gradients}
        return narrow_values(first, second, own[0], block.heads, **options)
    return narrow_queries(first, second, (own[0], own[1]), block.heads, gradients=gradients)
