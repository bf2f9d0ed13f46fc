"""The stages of a run for all layers of a checkpoint: find, plan, edit."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from rmtcli.checkpoint import Checkpoint, Edited, Edits, Manifest, open_written
from rmtcli.checkpoint.hashes import checkpoint_sha256
from rmtcli.checkpoint.names import pivots_of, unit_of, weight_of
from rmtcli.checkpoint.special import special_values
from rmtcli.edges import EDGES
from rmtcli.errors import LayerError
from rmtcli.files import as_path
from rmtcli.keep import KEEP_RULES
from rmtcli.layers import Layer, Selection, Skipped, SkipReason, find_layers
from rmtcli.layouts import Layout, Replacements
from rmtcli.options import option
from rmtcli.pipeline.factors import on_lost_record
from rmtcli.pipeline.fits import FitStream, FittedLayers
from rmtcli.planning import Fitted, LayerPlan, NarrowNetwork, RankChooser, plan_layer
from rmtcli.report.base import Source
from rmtcli.report.notes import on_not_finite
from rmtcli.version import __version__

#: Names of weights and of running statistics.
_LEARNED = re.compile(r"(^|[._])(weight|running_mean|running_var)$")
#: Bytes per tensor that names, headers and alignment may take in a file that holds no other tensor.
_CONTAINER = 1024


@dataclass(frozen=True, slots=True)
class Method:
    """How layers are pruned, with all options spelled out.

    Attributes:
        edge: the edge estimator.
        keep: the keep rule.
        layout: how pruned layers are stored.
        made_by: what decides the ranks, as a user would ask for it.
    """

    edge: str
    keep: str
    layout: Layout
    made_by: str = ""

    @staticmethod
    def spelled(edge: str, keep: str, layout: Layout, made_by: str = "") -> Method:
        """The method that a user's texts describe.

        Raises:
            UsageError: an unknown estimator, rule or option, or a value out of range.
        """
        edge = EDGES.spell(EDGES.parse(edge))
        return Method(edge, KEEP_RULES.spell(KEEP_RULES.parse(keep)), layout, made_by)


@dataclass(frozen=True, slots=True, eq=False)
class Planned:
    """The plans of all layers of a checkpoint.

    Attributes:
        layers: every layer, in the checkpoint's order.
        skipped: every matrix that is not a layer, or could not be fitted, with the reason.
    """

    layers: tuple[LayerPlan, ...]
    skipped: tuple[Skipped, ...]

    @property
    def pruned(self) -> tuple[LayerPlan, ...]:
        """The layers that change."""
        return tuple(plan for plan in self.layers if plan.untouched is None)


def describe(checkpoint: Checkpoint) -> Source:
    """Path, hash and sizes of a checkpoint, for the report."""
    digest, tensors, stored = checkpoint_sha256(checkpoint), len(checkpoint.infos), checkpoint.bytes
    files = checkpoint.weights
    size = sum(path.stat().st_size for path in files) if files else stored
    other = size - stored if checkpoint.extras else 0
    if other <= _CONTAINER * (tensors + 1):
        other = 0
    return Source(str(checkpoint.path), digest, size, tensors, checkpoint.parameters, other, stored)


def described(target: Path, network: Checkpoint) -> Source:
    """A written output, for the report.

    Its parameters are those of the network, also if another package's format has no aliases; so
    are the bytes of its tensors.
    """
    source = describe(open_written(network, target))
    return replace(source, parameters=network.parameters, tensor_bytes=network.bytes)


def layers_of(
    checkpoint: Checkpoint, selection: Selection | None, *, whole: bool = False
) -> list[Layer | Skipped]:
    """Every layer of a checkpoint, and every matrix that is not one.

    Args:
        checkpoint: the network.
        selection: which matrices are layers.
        whole: whether a recurrent layer's gates are one matrix, as they are split.

    Raises:
        UsageError: a pattern that matches nothing.
        LayerError: there is no layer among them.
    """
    items = list(find_layers(checkpoint, selection, whole=whole))
    if not any(isinstance(item, Layer) for item in items):
        reasons = Counter(item.reason.value for item in items if isinstance(item, Skipped))
        why = "".join(f"; {count} {reason}" for reason, count in reasons.most_common())
        if checkpoint.opaque:
            why += f"; {len(checkpoint.opaque)} not tensors with names"
        raise LayerError(
            f"{checkpoint.path}: no fully connected layers among "
            f"{len(checkpoint.infos)} tensors{why}"
        )
    return items


def plan_layers(
    checkpoint: Checkpoint,
    fits: FitStream | FittedLayers,
    choose: RankChooser,
    layout: Callable[[Fitted], Layout],
    replacements: Replacements | None = None,
) -> Planned:
    """Plan every layer.

    Args:
        checkpoint: the dense network.
        fits: its layers.
        choose: gives each layer its rank, or the reason why it stays as it is.
        layout: how each layer is stored if it is pruned.
        replacements: takes the factors of each layer as soon as they are computed, so that memory
            holds those of one layer; without it, the plans keep them.
    """

    def plan(item: Fitted) -> LayerPlan:
        taken = checkpoint.infos.keys()
        return plan_layer(item, choose(item), layout=layout(item), taken=taken)

    plans: list[LayerPlan] = []
    skipped: list[Skipped] = []
    for item in fits.map(plan):
        if isinstance(item, Skipped):
            skipped.append(item)
        elif replacements is not None and item.factors is not None:
            replacements.add(item.layer, item.factors, item.layout, item.group)
            plans.append(replace(item, factors=None))
        else:
            plans.append(item)
        del item  # not held while the next layer is computed
    return Planned(tuple(plans), tuple(skipped))


def edited(
    checkpoint: Checkpoint,
    source: Source,
    method: Method,
    pruned: Sequence[LayerPlan],
    edits: Edits | None = None,
    narrow: NarrowNetwork | None = None,
) -> Edited:
    """The pruned checkpoint, with rmtcli's record in it.

    Args:
        checkpoint: the dense network.
        source: its path and hash.
        method: how it was pruned.
        pruned: the plans of the layers that change.
        edits: their new tensors; without them, the plans hold the factors.
        narrow: the narrower hidden layers, if there are any.
    """
    if edits is None:
        replacements = Replacements(checkpoint)
        for plan in pruned:
            assert plan.factors is not None
            replacements.add(plan.layer, plan.factors, plan.layout, plan.group)
        edits = replacements.finish()
    old = checkpoint.manifest
    factored, shared = (dict(old.factored), dict(old.shared)) if old else ({}, {})
    pivoted = dict(old.pivoted) if old else {}
    for plan in (plan for plan in pruned if plan.layout.splits):
        for unit in map(unit_of, (plan.layer.tensor, *plan.layer.tied)):
            if not edits[weight_of(unit)]:
                continue  # a name that is tied again when the network is loaded
            factored[unit] = plan.rank
            rest = edits[weight_of(unit)].get(pivots_of(unit)[1])
            if rest is not None:
                pivoted[unit] = rest.shape[0]
        if plan.shares_with is not None:
            shared[plan.layer.module] = unit_of(plan.shares_with)
    narrowed, shapes, entries = _widths(old, pruned, narrow)
    manifest = Manifest(
        __version__,
        as_path(source.path).absolute().name,
        source.sha256,
        method.keep,
        method.edge,
        factored,
        method.made_by,
        {plan.layer.name: plan.rank for plan in pruned if plan.ranked},
        shared,
        pivoted,
        _tables(checkpoint, pruned, factored),
        narrowed,
        entries,
        {name: x for name, x in (old.packed if old else {}).items() if name not in edits},
        shapes,
    )
    return Edited(checkpoint, edits, manifest)


def _widths(
    old: Manifest | None, pruned: Sequence[LayerPlan], narrow: NarrowNetwork | None
) -> tuple[dict[str, list[int]], dict[str, list[int]], dict[str, int]]:
    """The record's ``narrowed``, ``shapes`` and ``entries``.

    A layer that the loader gives its shape for the first time is recorded with the shape that the
    configuration gives it; any other one keeps its first shape.
    """
    plans = (plan for plan in pruned if plan.narrowed is not None)
    narrowed = {plan.layer.name: list(plan.layer.shape) for plan in plans}
    narrowed |= {} if old is None else {name: list(x) for name, x in old.narrowed.items()}
    shapes = {} if old is None else {name: list(x) for name, x in old.shapes.items()}
    entries = {} if old is None else dict(old.entries)
    if narrow is not None:
        narrowed |= {name: list(x) for name, x in narrow.given.items() if name not in shapes}
        shapes |= {name: list(x) for name, x in narrow.loaded.items()}
        entries |= narrow.entries
    return narrowed, shapes, entries


def _tables(
    checkpoint: Checkpoint, pruned: Iterable[LayerPlan], factored: Collection[str]
) -> dict[str, list[str]]:
    """For each factored module that is a table or tied to one: the other modules of its shape.

    Their weights are not tied to it, whatever the network's class ties.
    """
    tables = dict(checkpoint.manifest.tables) if checkpoint.manifest else {}
    for table in (x.layer for x in pruned if x.layout.splits and x.layer.view.table):
        own = (table.tensor, *table.tied)
        shape = checkpoint.infos[table.tensor].shape
        names = (name for name, info in checkpoint.infos.items() if info.shape == shape)
        others = [unit_of(name) for name in names if name not in own]
        tables |= {unit: others for unit in map(unit_of, own) if unit in factored}
    return {name: list(others) for name, others in tables.items()}


def on_tensors(checkpoint: Checkpoint, planned: Planned) -> tuple[str, ...]:
    """Notes on factors without a record, and on values that are not finite where no layer is.

    Layers were refused for such values, or are listed. Minus infinity is what a mask holds, so that
    it counts in weights and running statistics only.
    """
    known = {plan.layer.tensor for plan in planned.layers}
    known |= {item.name for item in planned.skipped if item.reason is SkipReason.NOT_FINITE}
    names = [name for name in checkpoint.distinct if name not in known]
    broken = [name for name in names if _is_broken(name, checkpoint)]
    return (*on_not_finite(broken), *on_lost_record(checkpoint, planned.pruned))


def _is_broken(name: str, checkpoint: Checkpoint) -> bool:
    """Whether a tensor holds values that no working network has there."""
    if not checkpoint.infos[name].counts:
        return False
    learned = _LEARNED.search(name) is not None
    kinds = map(special_values, checkpoint.pieces(name))
    return any(x.nan or x.infinite or (learned and x.minus_infinite) for x in kinds)


def refuse_not_finite(path: Path, items: Iterable[Fitted | Skipped]) -> None:
    """Refuse a network with values that are not finite: it is broken, and pruning would hide that.

    Raises:
        LayerError: one of the layers was skipped for this reason.
    """
    for item in items:
        if isinstance(item, Skipped) and item.reason is SkipReason.NOT_FINITE:
            raise LayerError(
                f"{path}: {item.name} {item.reason.value}: repair the checkpoint, or leave "
                f"the layer out with {option('exclude', item.name)}"
            )
