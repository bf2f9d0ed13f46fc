"""An adapter in the commands that look at networks: its layers' changes, without ever a product."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from functools import partial

import numpy as np

from rmtcli.adapters import AdaptedLayer, Adapter
from rmtcli.adapters.product import restricted
from rmtcli.checkpoint import RawTensor, encode
from rmtcli.edges import EdgeEstimator
from rmtcli.errors import UsageError
from rmtcli.layers import Layer, Selection
from rmtcli.report.difference import Figures, LayerDifference


def changes_of(adapter: Adapter, selection: Selection | None) -> list[Layer]:
    """The changes of an adapter's layers as matrices of out × r.

    Each is ΔW in an orthonormal basis of the inputs that it reads, with the singular values of ΔW.

    Raises:
        UsageError: the selection leaves none.
    """
    selection, layers = selection or Selection(), []
    for item in adapter.layers:
        shape = item.shape[0], min(item.rank, item.shape[1])
        if not selection.leaves_out(item.module):
            layers.append(Layer(item.module, shape, "F64", partial(_of, item)))
    if not layers:
        raise UsageError(f"{adapter.path}: no layer of the adapter is left to look at")
    return layers


def _of(item: AdaptedLayer) -> RawTensor:
    """A layer's change in a basis of the inputs that it reads."""
    ((_, part),) = restricted([item])
    return encode(item.scale * part.matrix, "F64")


def differences(a: Adapter, b: Adapter, edge: EdgeEstimator) -> Iterator[LayerDifference]:
    """The differences of the layers that two adapters change in equal shapes.

    Raises:
        CheckpointError: a factor has values that are not finite.
    """
    others = {item.module: item for item in b.layers}
    for first in a.layers:
        second = others.get(first.module)
        if second is None or second.shape != first.shape:
            continue
        (before, values), (after, more) = (_figures(item, edge) for item in (first, second))
        distance = _distance(first, second)
        change = distance / before.norm if before.norm else float(distance > 0)
        count = max(len(values), len(more))
        gaps = np.pad(values, (0, count - len(values))) - np.pad(more, (0, count - len(more)))
        spectral = float(np.abs(gaps).max()) / before.largest if before.largest else 0.0
        yield LayerDifference(first.module, first.shape, change, spectral, before, after)


def _figures(item: AdaptedLayer, edge: EdgeEstimator) -> tuple[Figures, np.ndarray]:
    """The figures of a layer's change, and its singular values."""
    ((_, part),) = restricted([item])
    part = replace(part, matrix=item.scale * part.matrix, values=abs(item.scale) * part.values)
    values, s = part.values, part.spectrum
    norm, largest = float(np.linalg.norm(values)), float(values[0])
    if not largest:
        return Figures(0.0, 0.0, 0.0, 0, 0.0, 0.0, 0), values
    fit = edge.fit(s, part.matrix)
    figures = Figures(
        norm,
        largest,
        (norm / largest) ** 2,
        int(np.count_nonzero(values)),
        fit.law.sigma,
        s.singular_value(fit.edge),
        s.count_above(fit.edge),
    )
    return figures, values


def _distance(a: AdaptedLayer, b: AdaptedLayer) -> float:
    """The Frobenius norm of the difference, by two QR decompositions of both sides together."""
    (left, right), (other_left, other_right) = a.factors(), b.factors()
    columns = np.hstack([a.scale * left, -b.scale * other_left])
    rows = np.vstack([right, other_right])
    first, second = (np.asarray(np.linalg.qr(side, mode="r")) for side in (columns, rows.T))
    return float(np.linalg.norm(first @ second.T))
