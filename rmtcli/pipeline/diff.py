"""Compare two checkpoints layer by layer."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import numpy as np

from rmtcli.arrays import FloatArray
from rmtcli.checkpoint import Checkpoint, Edited, Openable
from rmtcli.edges import EDGES, EdgeEstimator
from rmtcli.errors import LayerError, UsageError
from rmtcli.law import overlap
from rmtcli.layers import Layer, Selection, find_layers
from rmtcli.pipeline.adapter_layers import differences
from rmtcli.pipeline.factors import whole
from rmtcli.pipeline.fits import Track
from rmtcli.pipeline.merge import edits_of
from rmtcli.pipeline.opened import opened
from rmtcli.pipeline.stages import describe
from rmtcli.report.difference import Difference, Figures, LayerDifference, Update
from rmtcli.spectra import Spectrum, spectrum, times

#: The shapes of layers by name.
Shapes = Mapping[str, tuple[int, int]]


def diff(
    before: Openable,
    after: Openable,
    *,
    key: str | None = None,
    edge: str = "select",
    selection: Selection | None = None,
    track: Track = iter,
) -> Difference:
    """Compare two checkpoints layer by layer: spectra, ranks, norms and edges.

    Factored layers are compared by the product of their factors, and two adapters by their
    changes, whatever their ranks. An adapter after a network stands for the network with it.

    Args:
        before: network A: the path of a file or directory, a torch module, or a state dict; or an
            adapter.
        after: network B, or an adapter.
        key: which state dict, in both files, where a torch file holds several.
        edge: edge estimator with options.
        selection: which matrices are layers.
        track: wraps the iteration over layers, for progress.

    Raises:
        UsageError: a wrong option or path.
        CheckpointError: a file cannot be read.
        LayerError: the two have no layer in common, or one whose values are not finite.
    """
    estimator = EDGES.parse(edge)
    (first, a), (second, b) = (opened(model, key) for model in (before, after))
    if a is not None and b is None:
        raise UsageError(f"{before} is an adapter and {after} is not: name the network first")
    sources = describe(first), describe(second)
    if a is not None and b is not None:
        names = [{item.module: item.shape for item in adapter.layers} for adapter in (a, b)]
        compared = tuple(differences(a, b, estimator))
    else:
        adapted = second if b is None else Edited(first, edits_of(first, b), first.manifest)
        layers = [_layers(whole(network), selection) for network in (first, adapted)]
        names = [{name: layer.shape for name, layer in some.items()} for some in layers]
        common = [layers[0][name] for name in _common(*names)]
        pairs = ((x, layers[1][x.name]) for x in track(common) if isinstance(x, Layer))
        compared = tuple(_compare(*pair, estimator) for pair in pairs)
    if not compared:
        raise LayerError(f"{before} and {after} have no layer of the same name and shape")
    return Difference(*sources, EDGES.spell(estimator), compared, tuple(_missing(*names)))


def _common(first: Shapes, second: Shapes) -> list[str]:
    """Names of the layers that both hold in one shape."""
    return [name for name, shape in first.items() if second.get(name) == shape]


def _missing(first: Shapes, second: Shapes) -> Iterator[tuple[str, str | None]]:
    """The layers that are not compared, and which one alone holds each."""
    common = {*_common(first, second)}
    for name in (*first, *(name for name in second if name not in first)):
        if name not in common:
            yield name, None if name in first and name in second else "A" if name in first else "B"


def _layers(checkpoint: Checkpoint, selection: Selection | None) -> dict[str, Layer]:
    items = find_layers(checkpoint, selection)
    return {item.name: item for item in items if isinstance(item, Layer)}


def _compare(a: Layer, b: Layer, estimator: EdgeEstimator) -> LayerDifference:
    weights: list[FloatArray] = [layer.load().astype(np.float64) for layer in (a, b)]
    for weight, layer in zip(weights, (a, b), strict=True):
        if not np.isfinite(weight).all():
            raise LayerError(f"{layer.name} holds values that are NaN or infinite")
    norm = float(np.linalg.norm(weights[0]))
    distance = float(np.linalg.norm(weights[0] - weights[1]))
    change = distance / norm if norm else float(distance > 0)
    spectra = [spectrum(weight, vectors=weight is weights[0]) for weight in weights]
    singular = [np.sqrt(s.eigenvalues * s.n) for s in spectra]
    top = float(singular[0][-1])
    spectral = float(np.abs(singular[0] - singular[1]).max()) / top if top else 0.0
    before, after = (_figures(w, s, estimator) for w, s in zip(weights, spectra, strict=True))
    update = _update(weights[0], weights[1], spectra[0], before.spikes) if distance else None
    return LayerDifference(a.name, a.shape, change, spectral, before, after, update)


def _update(before: FloatArray, after: FloatArray, s: Spectrum, spikes: int) -> Update:
    """The figures of the difference, and of its spikes beside those of the first weight."""
    change = after - before
    own = spectrum(change, vectors=True)
    fit = EDGES.parse("change").fit(own, change)
    count = own.count_above(fit.edge)
    directions, known = _outputs(change, own, count), _outputs(before, s, spikes)
    overlaps = np.minimum(np.square(known.T @ directions).sum(axis=0), 1.0)
    total = own.n * float(own.eigenvalues.sum())
    return Update(
        fit.law.sigma,
        own.singular_value(fit.edge),
        count,
        min(1.0, change.size * fit.law.sigma**2 / total) if total else 0.0,
        fit.verdict.name.lower(),
        tuple(map(float, overlaps)),
        tuple(map(float, overlap.p_values(overlaps, spikes, len(change)))),
    )


def _outputs(weight: FloatArray, s: Spectrum, count: int) -> FloatArray:
    """The leading singular vectors over the outputs, shape (out, count)."""
    vectors = s.leading(count) if count else np.zeros((s.p, 0))
    if weight.shape[0] < weight.shape[1]:
        return vectors
    long = times(weight, vectors)
    return np.asarray(long / np.maximum(np.linalg.norm(long, axis=0), np.finfo(float).tiny))


def _figures(weight: FloatArray, s: Spectrum, estimator: EdgeEstimator) -> Figures:
    largest, total = float(s.eigenvalues[-1]), float(s.eigenvalues.sum())
    rank = int(np.count_nonzero(s.eigenvalues))
    if not largest:
        return Figures(0.0, 0.0, 0.0, 0, 0.0, 0.0, 0)
    fit = estimator.fit(s, weight)
    return Figures(
        (total * s.n) ** 0.5,
        (largest * s.n) ** 0.5,
        total / largest,
        rank,
        fit.law.sigma,
        (fit.edge * s.n) ** 0.5,
        s.count_above(fit.edge),
    )
