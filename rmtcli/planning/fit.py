"""A layer with its spectrum, the fit of its noise, and its low-rank approximations."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Protocol

import numpy as np
from numpy.typing import NDArray

from rmtcli.arrays import FloatArray
from rmtcli.diagnostics import VectorTest, compare_vectors
from rmtcli.edges import EdgeEstimator, EdgeFit
from rmtcli.layers import Layer, Skipped, SkipReason, fingerprint
from rmtcli.spectra import Factors, Spectrum, factorize, max_abs, spectrum

if TYPE_CHECKING:
    from rmtcli.calibration import Eigh, MetricDecomposition, Moments


class Approximation(Protocol):
    """The best low-rank approximations of a layer, or of a group of siblings, in some metric."""

    @property
    def losses(self) -> FloatArray:
        """Shape (p,), descending: the loss that dropping each direction adds."""
        ...

    def factors(self, rank: int) -> Factors:
        """The best approximation of a rank."""
        ...


class Decomposer(Protocol):
    """Computes a spectrum, or looks it up: :func:`spectrum`, or a cache's method."""

    def __call__(self, weight: NDArray[np.floating], *, vectors: bool = False) -> Spectrum:
        """The spectrum of a weight of shape (out, in), with vectors if asked for."""
        ...


_directly: Decomposer = spectrum


@dataclass(frozen=True, slots=True, eq=False)
class Plain:
    """Truncation of the weight itself; its loss is the squared error of the weight.

    Attributes:
        layer: the layer.
        spectrum: of its weight, with vectors unless they were released.
        weight: the weight, or None if it has to be read and decomposed again for factors.
        decomposer: computes that decomposition.
    """

    layer: Layer
    spectrum: Spectrum
    weight: NDArray[np.floating] | None
    decomposer: Decomposer = _directly

    @property
    def losses(self) -> FloatArray:
        """Squared singular values, as shares of the largest so that layers can be compared.

        Errors of successive layers multiply, so each counts relative to its layer's gain.
        docs/benchmarks-linear.md compares this with shares of ‖W‖² and of the signal above the
        edge.
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

    Attributes:
        layer: the layer.
        spectrum: of its weight.
        fit: the fit of its noise.
        approximation: its low-rank approximations, or None.
        vectors: comparison of its spikes' vectors with noise, if they are known.
        group: name of the first of its siblings, perhaps its own, if they share a right factor.
        sha256: hash of its bytes as stored, or None if it was not asked for.
    """

    layer: Layer
    spectrum: Spectrum
    fit: EdgeFit
    approximation: Approximation | None
    vectors: VectorTest | None = None
    group: str | None = None
    sha256: str | None = None

    def released(self) -> Fitted:
        """The layer without what a second decomposition can compute again, to save memory."""
        if not isinstance(self.approximation, Plain):
            return self
        s = replace(self.spectrum, form=None)
        approximation = replace(self.approximation, spectrum=s, weight=None)
        return replace(self, spectrum=s, approximation=approximation)

    @property
    def spikes(self) -> int:
        """Number of eigenvalues above the edge."""
        return self.spectrum.count_above(self.fit.edge)


@dataclass(frozen=True, slots=True)
class LayerCalibration:
    """The result of calibrating one layer, and how it is used.

    Attributes:
        moments: of the layer's inputs and output gradients.
        bias: whether the layer has a bias that can take up the mean of its inputs.
        gradients: whether the moments of the gradients are used.
        raw: the moments before they were cleaned, where some samples were kept apart.
        eigh: computes eigenvectors: on the processor or an accelerator.
        dtype: type of a right factor that has the size of a table.
    """

    moments: Moments
    bias: bool
    gradients: bool
    raw: Moments | None = None
    eigh: Eigh = np.linalg.eigh
    dtype: type[np.floating] = np.float64

    def decompose(self, weight: NDArray[np.floating]) -> MetricDecomposition:
        """The best low-rank maps of the layer."""
        from rmtcli.calibration import decompose

        options = {"bias": self.bias, "gradients": self.gradients}
        return decompose(weight, self.moments, **options, eigh=self.eigh, dtype=self.dtype)

    def whitened(self, weight: NDArray[np.floating]) -> FloatArray:
        """The layer in the metric of its data, shape (out, in)."""
        from rmtcli.calibration import whitened

        options = {"bias": self.bias, "gradients": self.gradients}
        return whitened(weight, self.moments, **options, eigh=self.eigh)


def fit_layer(
    layer: Layer,
    edge: EdgeEstimator,
    *,
    approximate: bool = False,
    calibration: LayerCalibration | None = None,
    vectors: bool = False,
    hashed: bool = False,
    in_metric: bool = False,
    decomposer: Decomposer = spectrum,
) -> Fitted | Skipped:
    """Fit the noise of a layer, and compute its approximations if they are asked for.

    The layer is read once. Without calibration this takes one decomposition; with calibration, a
    second one in the metric of the data.

    Args:
        layer: the layer.
        edge: estimates the edge between noise and signal.
        approximate: whether low-rank approximations are wanted.
        calibration: the layer's moments, which define the metric of the approximations.
        vectors: whether the spikes' vectors are compared with noise even if no other purpose needs
            vectors.
        hashed: whether the layer's bytes are hashed.
        in_metric: whether spectrum and noise are those of the layer in the metric of its
            calibration, so that the squares of the singular values are losses.
        decomposer: computes the spectrum.

    Returns:
        The fitted layer, or the reason why it cannot be fitted.
    """
    raw = layer.read()
    weight, sha256 = layer.view.matrix(raw), fingerprint(raw) if hashed else None
    del raw  # where the weight is a copy of it, memory holds only the weight
    reason = _unfit(weight)
    if reason is not None:
        return Skipped(layer.name, reason)
    seen = weight
    if in_metric and calibration is not None:
        seen = calibration.whitened(weight)
        if (reason := _unfit(seen)) is not None:
            return Skipped(layer.name, reason)
    approximation: Approximation | None = None
    try:
        s = decomposer(seen, vectors=vectors or (approximate and calibration is None))
        if approximate and calibration is not None:
            approximation = calibration.decompose(weight)
        elif approximate:
            approximation = Plain(layer, s, weight, decomposer)
    except np.linalg.LinAlgError:
        return Skipped(layer.name, SkipReason.NO_CONVERGENCE)
    fit = edge.fit(s, seen)
    test = None if s.form is None else compare_vectors(seen, s, s.count_above(fit.edge))
    return Fitted(layer, s, fit, approximation, test, sha256=sha256)


def _unfit(weight: NDArray[np.floating]) -> SkipReason | None:
    """Why a weight's values cannot be decomposed."""
    largest = max_abs(weight)
    if not math.isfinite(largest):
        return SkipReason.NOT_FINITE
    if not largest:
        return SkipReason.ZERO
    return None if 1e-150 < largest < 1e150 else SkipReason.RANGE
