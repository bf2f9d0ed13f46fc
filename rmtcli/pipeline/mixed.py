"""Networks with narrower hidden layers and layers of lower rank."""

from __future__ import annotations

from dataclasses import replace
from functools import partial

from rmtcli.calibration import ByLayer
from rmtcli.checkpoint import Edited
from rmtcli.evaluation import Harness
from rmtcli.layers import Skipped
from rmtcli.pipeline.prepared import Prepared, Result
from rmtcli.planning import Design, Fitted, LayerPlan, by_ranks


def mixed(prepared: Prepared, design: Design) -> Result:
    """Make hidden layers narrower, and approximate the layers of the narrow network.

    Args:
        prepared: the dense network.
        design: the widths and the ranks.
    """
    assert prepared.hidden is not None
    assert prepared.calibrations is not None
    division = design.division
    ranks, layouts = by_ranks(division.ranks, prepared.calibrations), division.layouts
    if list(design.widths) == prepared.hidden.dense:
        return prepared.result(ranks, layouts)
    if not prepared.method.layout.ranks:
        return prepared.narrowed(design.widths)
    narrow = prepared.cut(design.widths)
    ranked = _cut(prepared, design, narrow).result(ranks, layouts)
    pairs = zip(narrow.planned.layers, ranked.planned.layers, strict=True)
    planned = replace(narrow.planned, layers=tuple(_both(*pair) for pair in pairs))

    def flat(network: Edited) -> Edited:
        """The network as changes of the dense one."""
        edits = {**narrow.network.edits, **network.edits}
        return Edited(prepared.checkpoint, edits, network.manifest)

    split = any(plan.layout.splits for plan in planned.pruned)
    return replace(
        ranked,
        planned=planned,
        calibrations=narrow.calibrations,
        notes=ranked.notes if split else (*narrow.notes, *ranked.notes),
        network=flat(ranked.network),
        unhealed=None if ranked.unhealed is None else flat(ranked.unhealed),
    )


def _cut(prepared: Prepared, design: Design, narrow: Result) -> Prepared:
    """The narrow network, ready to be approximated."""
    hidden, calibrations, network = prepared.hidden, prepared.calibrations, narrow.network
    assert hidden is not None
    assert calibrations is not None
    assert narrow.calibrations is not None
    free = {item.layer.name: item for item in design.fitted}

    def at(item: Fitted | Skipped) -> Fitted | Skipped:
        if isinstance(item, Skipped):
            return item
        layer = item.layer
        shape, read = hidden.shape(layer, design.widths), partial(network.raw, layer.tensor)
        return replace(free.get(layer.name, item), layer=replace(layer, shape=shape, read=read))

    harness = Harness(prepared.harness.evaluation, network)
    harness.reading = prepared.harness.reading
    return replace(
        prepared,
        harness=harness,
        fits=replace(prepared.held, items=tuple(map(at, prepared.held.items))),
        calibrations=ByLayer(narrow.calibrations, calibrations.missing),
        hidden=None,
        teacher=prepared.harness,
    )


def _both(narrow: LayerPlan, ranked: LayerPlan) -> LayerPlan:
    """The plan of a layer, given what becomes of it by widths alone and by its rank after that."""
    if narrow.narrowed is None:
        return ranked
    if ranked.untouched is not None:
        return narrow
    loss, rest = narrow.predicted_loss or 0.0, ranked.predicted_loss
    return replace(
        ranked,
        layer=narrow.layer,
        narrowed=narrow.narrowed,
        # What the approximation misses is a share of what the units that stay still give.
        predicted_loss=None if rest is None else loss + (1 - loss) * rest,
    )
