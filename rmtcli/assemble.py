"""The stages put together for all layers of a checkpoint: found, fitted, decided, rewritten."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from rmtcli.checkpoint import Checkpoint, Edited, Manifest
from rmtcli.checkpoint.remote import place
from rmtcli.decide import Choice
from rmtcli.edges import EDGES
from rmtcli.edits import Splitter
from rmtcli.errors import LayerError
from rmtcli.hashes import checkpoint_sha256
from rmtcli.keep import KEEP_RULES
from rmtcli.layers import Layer, Selection, Skipped, SkipReason, find_layers
from rmtcli.names import module_of
from rmtcli.plan import Data, Fitted, Layout, fit_layer, plan_layer
from rmtcli.report.base import Report, Source
from rmtcli.version import __version__

_LOGGER = logging.getLogger(__name__)

#: Memory for decompositions of layers whose ranks are decided at once. A budget needs each layer's
#: factors once, a search more often: what is not held is decomposed anew.
HELD_BYTES = 256 * 2**20
#: Passes the layers on one by one; a caller may watch them go by.
Track = Callable[[Sequence[Layer | Skipped]], Iterable[Layer | Skipped]]


def describe(checkpoint: Checkpoint) -> Source:
    """The facts about a file that a report names."""
    size = sum(path.stat().st_size for path in checkpoint.weights)
    digest, tensors = checkpoint_sha256(checkpoint), len(checkpoint.infos)
    return Source(str(checkpoint.path), digest, size, tensors, checkpoint.parameters)


def started(action: str, checkpoint: Checkpoint, edge: str, keep: str, layout: Layout) -> Report:
    """A report with nothing in it yet but its options, which are checked."""
    return Report(
        action,
        describe(checkpoint),
        edge=EDGES.spell(EDGES.parse(edge)),
        keep=KEEP_RULES.spell(KEEP_RULES.parse(keep)),
        layout=layout,
    )


def layers_of(checkpoint: Checkpoint, selection: Selection | None) -> list[Layer | Skipped]:
    """Every layer, and every matrix that is none.

    Raises:
        UsageError: a pattern that matches nothing.
        LayerError: there is no layer among them.
    """
    found = list(find_layers(checkpoint, selection))
    if not any(isinstance(item, Layer) for item in found):
        reasons = Counter(item.reason.value for item in found if isinstance(item, Skipped))
        why = "".join(f"; {count} {reason}" for reason, count in reasons.most_common())
        raise LayerError(
            f"{checkpoint.path}: no fully connected layers among "
            f"{len(checkpoint.infos)} tensors{why}"
        )
    return found


def fits(
    found: Iterable[Layer | Skipped],
    edge: str,
    data: Mapping[str, Data] | None,
    *,
    approximate: bool,
    vectors: bool = False,
) -> Iterator[Fitted | Skipped]:
    """Each layer with its fit, one at a time; ``data`` is None where nothing was calibrated."""
    estimator = EDGES.parse(edge)
    for item in found:
        if isinstance(item, Skipped):
            yield item
        else:
            fitted = fit_layer(
                item,
                estimator,
                approximate=approximate,
                data=(data or {}).get(item.name),
                vectors=vectors,
            )
            _tell(item, fitted)
            yield fitted
            del fitted  # not held while the next one is made


def _tell(layer: Layer, found: Fitted | Skipped) -> None:
    out, inputs = layer.shape
    if isinstance(found, Skipped):
        _LOGGER.info("%s, %d×%d: %s", layer.name, out, inputs, found.reason.value)
    else:
        words = (layer.name, out, inputs, found.spikes, found.fit.verdict.value)
        _LOGGER.info("%s, %d×%d: %d above the edge; %s", *words)


def held(fits: Iterable[Fitted | Skipped]) -> list[Fitted | Skipped]:
    """All layers at once; beyond :data:`HELD_BYTES`, without what can be made anew."""
    kept: list[Fitted | Skipped] = []
    size = 0
    for item in fits:
        if isinstance(item, Fitted) and item.held and size + item.held > HELD_BYTES:
            kept.append(item.released())
        else:
            size += item.held if isinstance(item, Fitted) else 0
            kept.append(item)
        del item  # not held while the next one is made
    return kept


def decided(
    report: Report,
    checkpoint: Checkpoint,
    fits: Iterable[Fitted | Skipped],
    choice: Choice,
    splitter: Splitter | None = None,
) -> Report:
    """The report with every layer's fate; a ``splitter`` takes over the factors."""
    assert report.layout is not None
    plans, skipped = [], []
    for item in fits:
        if isinstance(item, Skipped):
            skipped.append(item)
        else:
            taken = checkpoint.infos.keys()
            plan = plan_layer(item, choice(item), layout=report.layout, taken=taken)
            if splitter is not None and plan.factors is not None:
                splitter.add(plan)
                plan = replace(plan, factors=None)
            plans.append(plan)
        del item  # not held while the next one is made
    return replace(report, layers=tuple(plans), skipped=tuple(skipped))


def edited(report: Report, checkpoint: Checkpoint, splitter: Splitter | None = None) -> Edited:
    """The pruned checkpoint, with rmtcli's record in it.

    Args:
        report: every layer's fate.
        checkpoint: the dense network.
        splitter: what took over the factors, where the report does not hold them.
    """
    assert report.layout is not None
    assert report.keep is not None
    assert report.edge is not None
    factored = dict(checkpoint.manifest.factored) if checkpoint.manifest else {}
    shared = dict(checkpoint.manifest.shared) if checkpoint.manifest else {}
    if report.layout is Layout.FACTORED:
        for plan in report.pruned:
            names = (plan.layer.tensor, *plan.layer.aliases)
            factored |= {module_of(name): plan.rank for name in names}
            if plan.group is not None and plan.borrows:
                shared[plan.layer.module] = module_of(plan.group)
    if splitter is None:
        splitter = Splitter(checkpoint, report.layout)
        for plan in report.pruned:
            splitter.add(plan)
    manifest = Manifest(
        __version__,
        place(report.source.path).absolute().name,
        report.source.sha256,
        report.keep,
        report.edge,
        factored,
        report.made_by,
        {plan.layer.name: plan.rank for plan in report.pruned},
        shared,
    )
    return Edited(checkpoint, splitter.edits, manifest)


def refuse_not_finite(path: Path, skipped: Iterable[Fitted | Skipped]) -> None:
    """A network with values that are not finite is broken: pruning it would hide that.

    Raises:
        LayerError: one of the layers was skipped for it.
    """
    for item in skipped:
        if isinstance(item, Skipped) and item.reason is SkipReason.NOT_FINITE:
            raise LayerError(
                f"{path}: {item.name} {item.reason.value}: repair the checkpoint, or leave "
                f"the layer out with --exclude '{item.name}'"
            )
