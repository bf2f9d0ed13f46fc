"""The stages put together for all layers of a checkpoint: found, fitted, decided, rewritten."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TypeVar

from rmtcli.checkpoint import Checkpoint, Edited, Manifest
from rmtcli.checkpoint.dtypes import BYTES
from rmtcli.checkpoint.hashes import checkpoint_sha256
from rmtcli.checkpoint.names import module_of
from rmtcli.computing import Cache, Cluster, in_order
from rmtcli.edges import EDGES
from rmtcli.errors import LayerError, UsageError
from rmtcli.files import as_path
from rmtcli.keep import KEEP_RULES
from rmtcli.layers import Layer, Selection, Skipped, SkipReason, find_layers
from rmtcli.layouts import Layout, Replacements
from rmtcli.planning import (
    Decomposer,
    Fitted,
    LayerCalibration,
    LayerPlan,
    RankChooser,
    fit_layer,
    plan_layer,
)
from rmtcli.report.base import Report, Source
from rmtcli.spectra import spectrum
from rmtcli.version import __version__

_LOGGER = logging.getLogger(__name__)

#: Memory for decompositions of layers whose ranks are decided at once: all are held, or none. A
#: budget needs each layer's factors once, a search more often: what is not held is decomposed anew.
HELD_BYTES = 96 * 2**20
#: Memory for layers side by side, where three times the largest in float64 is less: about what
#: importing torch takes.
ROOM_BYTES = 256 * 2**20
#: Short side from which a layer keeps all cores busy: two of 4,096 take as long side by side as one
#: after the other (docs/benchmarks.md).
LARGE = 3072
R = TypeVar("R", Fitted, LayerPlan)
T = TypeVar("T")
U = TypeVar("U")
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


@dataclass(frozen=True, slots=True, eq=False)
class Fits:
    """Layers that are fitted while they are gone through, once.

    Attributes:
        found: the layers, in order.
        room: memory for those under way here.
        fit: how each is fitted.
        releases: whether those that wait for others come without what can be made anew.
        cluster: where they are fitted, if not here.
    """

    found: Iterable[Layer | Skipped]
    room: int
    fit: Callable[[Layer], Fitted | Skipped]
    releases: bool
    cluster: Cluster | None

    def __iter__(self) -> Iterator[Fitted | Skipped]:
        """Each layer with its fit."""
        return self.then(Fitted.released if self.releases else _itself)

    def then(self, function: Callable[[Fitted], R]) -> Iterator[R | Skipped]:
        """What becomes of each layer after its fit; that is computed where the fit is."""
        fit = self.fit  # what is sent to a cluster should not hold all layers

        def both(item: Layer | Skipped) -> R | Skipped:
            found = item if isinstance(item, Skipped) else fit(item)
            return found if isinstance(found, Skipped) else function(found)

        for done in _computed(both, self.found, _large, _memory, self.room, self.cluster):
            _tell(done)
            yield done
            del done  # not held while the next one is made


def _itself(item: Fitted) -> Fitted:
    return item


def _computed(
    function: Callable[[T], U],
    items: Iterable[T],
    alone: Callable[[T], bool],
    weigh: Callable[[T], int],
    room: int,
    cluster: Cluster | None,
) -> Iterator[U]:
    if cluster is not None:
        return cluster.in_order(function, items, alone=alone)
    return in_order(function, items, weigh=weigh, room=room, alone=alone)


def fits(
    found: Sequence[Layer | Skipped],
    edge: str,
    data: Mapping[str, LayerCalibration] | None,
    *,
    track: Track,
    approximate: bool,
    vectors: bool = False,
    hashed: bool = False,
    cache: str | Path | None = None,
    device: str = "cpu",
    cluster: Cluster | None = None,
) -> Fits:
    """All layers, to be fitted; ``data`` is None where nothing was calibrated.

    Raises:
        UsageError: the cache's folder cannot be made or written to, or the device not be used.
    """
    estimator = EDGES.parse(edge)
    decomposer = _decomposer(cache, device)

    def fit(layer: Layer) -> Fitted | Skipped:
        seen = None if data is None else data.get(layer.name)
        return fit_layer(
            layer,
            estimator,
            approximate=approximate,
            calibration=seen,
            vectors=vectors,
            hashed=hashed,
            decomposer=decomposer,
        )

    layers = [item for item in found if isinstance(item, Layer)]
    room = max(ROOM_BYTES, 3 * max(map(_float64, layers)))
    releases = cluster is not None or sum(map(_held, layers)) > HELD_BYTES
    return Fits(track(found), room, fit, releases, cluster)


def _decomposer(cache: str | Path | None, device: str) -> Decomposer:
    """What makes spectra: the processor, an accelerator, or what was kept."""
    if device != "cpu":
        from rmtcli.computing.device import OnDevice, has_solver  # needs torch

        if has_solver(device):
            if cache is not None:
                raise UsageError(
                    f"--cache keeps what the processor computes: leave it out, or --device {device}"
                )
            return OnDevice(device).spectrum
    return spectrum if cache is None else Cache.at(cache).spectrum


def _held(layer: Layer) -> int:
    """A weight and its tridiagonal form."""
    return layer.size * BYTES[layer.dtype] + 8 * min(layer.shape) ** 2


def _float64(layer: Layer) -> int:
    return 8 * layer.shape[0] * layer.shape[1]


def _memory(item: Layer | Skipped) -> int:
    """The weight and a copy in float64; two square matrices of the short side."""
    if isinstance(item, Skipped):
        return 0
    return _float64(item) * 3 // 2 + 16 * min(item.shape) ** 2


def _large(item: Layer | Skipped) -> bool:
    return isinstance(item, Layer) and min(item.shape) >= LARGE


def _tell(found: Fitted | LayerPlan | Skipped) -> None:
    if not isinstance(found, Skipped):
        words = (*found.layer.shape, found.spikes, found.fit.verdict.value)
        _LOGGER.info("%s, %d×%d: %d above the edge; %s", found.layer.name, *words)


def decided(
    report: Report,
    checkpoint: Checkpoint,
    fits: Iterable[Fitted | Skipped],
    choice: RankChooser,
    splitter: Replacements | None = None,
    cluster: Cluster | None = None,
) -> Report:
    """The report with every layer's fate; a ``splitter`` takes over the factors."""
    assert report.layout is not None
    layout = report.layout

    def planned(item: Fitted) -> LayerPlan:
        return plan_layer(item, choice(item), layout=layout, taken=checkpoint.infos.keys())

    plans, skipped = [], []
    for plan in fits.then(planned) if isinstance(fits, Fits) else _each(planned, fits, cluster):
        if isinstance(plan, Skipped):
            skipped.append(plan)
        elif splitter is not None and plan.factors is not None:
            splitter.add(plan.layer, plan.factors, plan.group)
            plans.append(replace(plan, factors=None))
        else:
            plans.append(plan)
        del plan  # not held while the next one is made
    return replace(report, layers=tuple(plans), skipped=tuple(skipped))


def _each(
    planned: Callable[[Fitted], LayerPlan],
    fits: Iterable[Fitted | Skipped],
    cluster: Cluster | None,
) -> Iterator[LayerPlan | Skipped]:
    """Plans of layers that were fitted before."""

    def plan(item: Fitted | Skipped) -> LayerPlan | Skipped:
        return item if isinstance(item, Skipped) else planned(item)

    def large(item: Fitted | Skipped) -> bool:
        return isinstance(item, Fitted) and _large(item.layer)

    def memory(item: Fitted | Skipped) -> int:
        return 0 if isinstance(item, Skipped) else _memory(item.layer)

    return _computed(plan, fits, large, memory, ROOM_BYTES, cluster)


def edited(report: Report, checkpoint: Checkpoint, splitter: Replacements | None = None) -> Edited:
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
    if report.layout.splits:
        for plan in report.pruned:
            names = (plan.layer.tensor, *plan.layer.tied)
            factored |= {module_of(name): plan.rank for name in names}
            if plan.shares_with is not None:
                shared[plan.layer.module] = module_of(plan.shares_with)
    if splitter is None:
        splitter = Replacements(checkpoint, report.layout)
        for plan in report.pruned:
            assert plan.factors is not None
            splitter.add(plan.layer, plan.factors, plan.group)
    manifest = Manifest(
        __version__,
        as_path(report.source.path).absolute().name,
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
