"""All layers of a checkpoint with their fits: as a stream that passes once, or held in memory."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, TypeVar

from rmtcli.checkpoint.dtypes import TYPES
from rmtcli.computing import Cluster, in_order
from rmtcli.edges import EdgeEstimator
from rmtcli.layers import Layer, Skipped
from rmtcli.planning import (
    Decomposer,
    Fitted,
    LayerCalibration,
    LayerPlan,
    StoredDecomposition,
    fit_layer,
)
from rmtcli.spectra import spectrum

if TYPE_CHECKING:
    from rmtcli.calibration import ByLayer, Folder

_LOGGER = logging.getLogger(__name__)

#: Memory for decompositions of layers whose ranks are decided at once: either all are held or none.
#: A budget needs each layer's factors once, a search needs them more often; a decomposition that
#: is not held is computed again.
HELD_BYTES = 96 * 2**20
#: Memory for layers that are computed side by side, unless three times the largest layer in float64
#: is more: about what importing torch takes.
ROOM_BYTES = 256 * 2**20
#: Short side from which one layer keeps all cores busy: two layers of 4,096 take as long side by
#: side as one after the other (docs/benchmarks-speed.md).
LARGE = 3072

T = TypeVar("T")
U = TypeVar("U")
R = TypeVar("R", Fitted, LayerPlan)
#: Yields the layers one by one; a caller may watch their progress.
Track = Callable[[Sequence[Layer | Skipped]], Iterable[Layer | Skipped]]


class FitStream:
    """Layers that are fitted while they pass, once.

    Args:
        layers: the layers in order, and the matrices that are not layers.
        fitter: fits one layer; runs in another thread, or on the cluster.
        room: bytes for all layers that are under way in this process.
        releases: whether layers that wait for others are held without what can be computed again.
        cluster: where layers are fitted; None for this process.
    """

    def __init__(
        self,
        layers: Iterable[Layer | Skipped],
        fitter: Fitter,
        *,
        room: int,
        releases: bool,
        cluster: Cluster | None,
    ) -> None:
        self._layers: Iterable[Layer | Skipped] | None = layers
        self._fitter, self._room, self._releases = fitter, room, releases
        self._cluster = cluster

    def map(self, function: Callable[[Fitted], R]) -> Iterator[R | Skipped]:
        """Fit each layer and apply ``function`` where the fit was computed, in order.

        Raises:
            RuntimeError: the stream has passed already.
        """
        if self._layers is None:
            raise RuntimeError("a stream of fits passes once: hold it to use it again")
        layers, self._layers = self._layers, None
        fitter = self._fitter

        def both(pair: tuple[Layer | Skipped, Fitter]) -> R | Skipped:
            item, own = pair
            fitted = item if isinstance(item, Skipped) else own(item)
            return fitted if isinstance(fitted, Skipped) else function(fitted)

        # A task that is sent to a cluster must carry neither all layers nor their calibrations.
        alone = fitter.alone if self._cluster is not None else lambda item: fitter
        pairs = ((item, alone(item)) for item in layers)
        for done in _compute(both, pairs, lambda x: _layer_of(x[0]), self._room, self._cluster):
            _log(done)
            yield done
            del done  # not held while the next layer is computed

    def held(self) -> FittedLayers:
        """All fits in memory, so that they can be used more than once."""
        items = self.map(Fitted.released if self._releases else _unchanged)
        # Factors in the metric of the data are a product of what is here already.
        calibrated = self._fitter.calibrations is not None
        return FittedLayers(tuple(items), None if calibrated else self._cluster)


@dataclass(frozen=True, slots=True, eq=False)
class FittedLayers:
    """The layers of a checkpoint with their fits, in memory.

    Attributes:
        items: the layers in order, and the matrices that are not layers.
        cluster: where factors are computed; None for this process.
    """

    items: tuple[Fitted | Skipped, ...]
    cluster: Cluster | None

    @property
    def fitted(self) -> list[Fitted]:
        """The layers that have a spectrum."""
        return [item for item in self.items if isinstance(item, Fitted)]

    def map(self, function: Callable[[Fitted], LayerPlan]) -> Iterator[LayerPlan | Skipped]:
        """Apply ``function`` to each layer, in order."""

        def apply(item: Fitted | Skipped) -> LayerPlan | Skipped:
            return item if isinstance(item, Skipped) else function(item)

        return _compute(apply, self.items, _layer_of, ROOM_BYTES, self.cluster)


@dataclass(frozen=True, slots=True, eq=False)
class Fitter:
    """Fits one layer.

    Attributes:
        edge: edge estimator.
        calibrations: the calibration of each layer, by name; None without calibration.
        approximate: whether the layer's low-rank approximations are prepared.
        vectors: whether the vectors of the spikes are compared with noise.
        hashed: whether the layer's bytes are hashed as they are read.
        in_metric: whether the noise is that of the layer in the metric of its calibration.
        decomposer: computes the spectra.
        folder: takes approximations that do not stay in memory; None if they do.
    """

    edge: EdgeEstimator
    calibrations: ByLayer[LayerCalibration] | None = None
    approximate: bool = False
    vectors: bool = False
    hashed: bool = False
    in_metric: bool = False
    decomposer: Decomposer = spectrum
    folder: Folder | None = None

    def __call__(self, layer: Layer) -> Fitted | Skipped:
        """The layer with its fit, or the reason why it has none."""
        known = self.calibrations
        if self.folder is None or known is None or layer.name not in known:
            return self._fitted(layer, None if known is None else known.get(layer.name))
        from rmtcli.calibration import MetricDecomposition

        stored = StoredDecomposition.find(self.folder, layer)
        if stored is not None:
            fitted = replace(self, approximate=False)._fitted(layer, None)
        else:
            fitted = self._fitted(layer, known[layer.name])
        if isinstance(fitted, Skipped):
            return fitted
        if isinstance(fitted.approximation, MetricDecomposition):
            stored = StoredDecomposition.put(self.folder, layer, fitted.approximation)
        return replace(fitted, approximation=stored)

    def alone(self, item: Layer | Skipped) -> Fitter:
        """What fits one item, with the calibration of no other."""
        known = self.calibrations
        if known is None or isinstance(item, Skipped):
            return replace(self, calibrations=None)
        return replace(self, calibrations=known.only(item.name))

    def _fitted(self, layer: Layer, calibration: LayerCalibration | None) -> Fitted | Skipped:
        return fit_layer(
            layer,
            self.edge,
            approximate=self.approximate,
            calibration=calibration,
            vectors=self.vectors,
            hashed=self.hashed,
            in_metric=self.in_metric,
            decomposer=self.decomposer,
        )


def fit_layers(
    layers: Sequence[Layer | Skipped],
    fitter: Fitter,
    *,
    cluster: Cluster | None = None,
    track: Track = iter,
) -> FitStream:
    """Fit all layers as they are asked for.

    Args:
        layers: the layers in order, and the matrices that are not layers.
        fitter: fits each of them.
        cluster: where layers are fitted; None for this process.
        track: wraps the iteration over layers, for progress.
    """
    sizes = [item for item in layers if isinstance(item, Layer)]
    room = max(ROOM_BYTES, 3 * max(map(_float64_bytes, sizes)))
    releases = cluster is not None or sum(map(_held_bytes, sizes)) > HELD_BYTES
    return FitStream(track(layers), fitter, room=room, releases=releases, cluster=cluster)


def _unchanged(item: Fitted) -> Fitted:
    return item


def _compute(
    function: Callable[[T], U],
    items: Iterable[T],
    layer_of: Callable[[T], Layer | None],
    room: int,
    cluster: Cluster | None,
) -> Iterator[U]:
    """The function of each item in order, computed here or on the cluster."""

    def large(item: T) -> bool:
        layer = layer_of(item)
        return layer is not None and min(layer.shape) >= LARGE

    def weight(item: T) -> int:
        layer = layer_of(item)
        return 0 if layer is None else _working_bytes(layer)

    if cluster is not None:
        return cluster.in_order(function, items, alone=large)
    return in_order(function, items, weigh=weight, room=room, alone=large)


def _layer_of(item: Layer | Fitted | Skipped) -> Layer | None:
    if isinstance(item, Skipped):
        return None
    return item.layer if isinstance(item, Fitted) else item


def _held_bytes(layer: Layer) -> int:
    """Memory for a weight and the tridiagonal form of its Gram matrix."""
    return layer.size * TYPES[layer.dtype].width + 8 * min(layer.shape) ** 2


def _float64_bytes(layer: Layer) -> int:
    return 8 * layer.shape[0] * layer.shape[1]


def _working_bytes(layer: Layer) -> int:
    """Memory for a weight with a copy in float64, and two square matrices of its short side."""
    return _float64_bytes(layer) * 3 // 2 + 16 * min(layer.shape) ** 2


def _log(item: Fitted | LayerPlan | Skipped) -> None:
    if not isinstance(item, Skipped):
        words = (*item.layer.shape, item.spikes, item.fit.verdict.value)
        _LOGGER.info("%s, %d×%d: %d above the edge; %s", item.layer.name, *words)
