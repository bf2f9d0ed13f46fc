"""A layer with its spectrum, its fit, and its low-rank approximations."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from rmtcli.arrays import FloatArray
from rmtcli.calibration import Moments, decompose
from rmtcli.diagnostics import VectorTest, compare_vectors
from rmtcli.edges import EdgeEstimator, EdgeFit
from rmtcli.layers import Layer, Skipped, SkipReason
from rmtcli.spectra import Factors, Spectrum, factorize, max_abs, spectrum


class Approximation(Protocol):
    """The best low-rank maps of one layer, in some metric, or those of it and its siblings."""

    @property
    def losses(self) -> FloatArray:
        """Shape (p,), descending: the loss that dropping each direction adds."""
        ...

    def factors(self, rank: int) -> Factors:
        """The best map of this rank."""
        ...


class Decomposer(Protocol):
    """Makes a spectrum, or knows it already: :func:`spectrum`, or a cache's method."""

    def __call__(self, weight: NDArray[np.floating], *, vectors: bool = False) -> Spectrum:
        """The spectrum of a weight of shape (out, in), perhaps with vectors."""
        ...


_directly: Decomposer = spectrum


@dataclass(frozen=True, slots=True, eq=False)
class Plain:
    """Truncation of the weight itself; its loss is the squared error of the weight.

    Attributes:
        layer: the layer.
        spectrum: of its weight, with vectors unless it was released.
        weight: the weight, or None where it is read again and decomposed again for factors.
        decomposer: how that is done.
    """

    layer: Layer
    spectrum: Spectrum
    weight: NDArray[np.floating] | None
    decomposer: Decomposer = _directly

    @property
    def losses(self) -> FloatArray:
        """Squared singular values, as shares of the largest so that layers can be compared.

        Errors of layers that follow one another multiply, so each counts in relation to its layer's
        gain; docs/benchmarks.md compares with shares of ‖W‖² and of what stands above the edge.
        """
        values = self.spectrum.eigenvalues[::-1]
        return np.asarray(values / values[0])

    def factors(self, rank: int) -> Factors:
        """The truncated singular value decomposition."""
        if self.weight is not None:
            return factorize(self.weight, self.spectrum, rank)
        weight = self.layer.load()
        return factorize(weight, self.decomposer(weight, vectors=True), rank)


@dataclass(frozen=True, slots=True, eq=False)
class Fitted:
    """A layer with its spectrum, the fit of its noise, and its approximations if asked for.

    ``vectors`` compares the vectors of its spikes with noise, where they are known. ``group`` is
    the name of the first of its siblings, perhaps its own, where they share a right factor.
    """

    layer: Layer
    spectrum: Spectrum
    fit: EdgeFit
    approximation: Approximation | None
    vectors: VectorTest | None = None
    group: str | None = None

    def released(self) -> Fitted:
        """The same with less in memory, where factors can be had by a second decomposition."""
        if not isinstance(self.approximation, Plain):
            return self
        s = replace(self.spectrum, form=None)
        approximation = replace(self.approximation, spectrum=s, weight=None)
        return replace(self, spectrum=s, approximation=approximation)

    @property
    def spikes(self) -> int:
        """Eigenvalues above the edge."""
        return self.spectrum.count_above(self.fit.edge)


@dataclass(frozen=True, slots=True)
class LayerCalibration:
    """What calibration found out about one layer, and how it is to be used."""

    moments: Moments
    bias: bool
    gradients: bool


def fit_layer(
    layer: Layer,
    edge: EdgeEstimator,
    *,
    approximate: bool = False,
    data: LayerCalibration | None = None,
    vectors: bool = False,
    decomposer: Decomposer = spectrum,
) -> Fitted | Skipped:
    """A layer's spectrum and fit, and its approximations where they are asked for.

    Without data, that is one decomposition; with data, a second one in the metric of the data.
    The vectors of the spikes are looked at where the first has them, or where that is asked for.
    """
    weight = layer.load()
    largest = max_abs(weight)
    if not math.isfinite(largest):
        return Skipped(layer.name, SkipReason.NOT_FINITE)
    if not largest:
        return Skipped(layer.name, SkipReason.ZERO)
    if not 1e-150 < largest < 1e150:
        return Skipped(layer.name, SkipReason.RANGE)
    approximation: Approximation | None = None
    try:
        s = decomposer(weight, vectors=vectors or (approximate and data is None))
        if approximate and data is not None:
            bias, gradients = data.bias, data.gradients
            approximation = decompose(weight, data.moments, bias=bias, gradients=gradients)
        elif approximate:
            approximation = Plain(layer, s, weight, decomposer)
    except np.linalg.LinAlgError:
        return Skipped(layer.name, SkipReason.NO_CONVERGENCE)
    fit = edge.fit(s, weight)
    looks = None if s.form is None else compare_vectors(weight, s, s.count_above(fit.edge))
    return Fitted(layer, s, fit, approximation, looks)
