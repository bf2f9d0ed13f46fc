"""What is to be done with each layer."""

from __future__ import annotations

import math
from collections.abc import Collection
from dataclasses import dataclass, replace
from enum import Enum
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from rmtcli.calibration.moments import Moments
from rmtcli.diagnostics import Diagnostics, VectorTest, compare_vectors, diagnose
from rmtcli.edges import EdgeEstimator, EdgeFit
from rmtcli.factorize import Factors, factorize
from rmtcli.keep import Untouched
from rmtcli.layers import Layer, Skipped, SkipReason
from rmtcli.metric import decompose
from rmtcli.names import factors_of, module_of
from rmtcli.spectrum import FloatArray, Spectrum, max_abs, spectrum


class Layout(Enum):
    """How a pruned layer is stored."""

    FACTORED = "factored"
    DENSE = "dense"


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


@dataclass(frozen=True, slots=True, eq=False)
class LayerPlan:
    """One layer's fit and its fate.

    Attributes:
        layer: the layer.
        fit: its noise law, edge and verdict.
        spectrum: its eigenvalues, without vectors.
        spikes: eigenvalues above the edge.
        rank: singular values to keep; p where the layer stays as it is.
        untouched: why it stays as it is, or None where it is pruned.
        relative_error: ‖W − W_r‖_F / ‖W‖_F of plain truncation to that rank.
        predicted_loss: expected loss of the calibrated factors, before any refinement, on the
            calibration data, relative to dropping the layer; of siblings, of all together; None
            without calibration.
        factors: the two factors, where they were asked for and the layer is pruned.
        vectors: how the vectors of the spikes compare with noise, where they are known.
        group: name of the first of the pruned layers that share its right factor, perhaps its own;
            None where it has one to itself.
    """

    layer: Layer
    fit: EdgeFit
    spectrum: Spectrum
    spikes: int
    rank: int
    untouched: Untouched | None
    relative_error: float
    predicted_loss: float | None = None
    factors: Factors | None = None
    vectors: VectorTest | None = None
    group: str | None = None

    @property
    def largest(self) -> float:
        """Largest eigenvalue, s₁²/n."""
        return float(self.spectrum.eigenvalues[-1])

    @property
    def above(self) -> FloatArray:
        """Shape (spikes,): eigenvalues above the edge, largest first."""
        return self.spectrum.eigenvalues[::-1][: self.spikes]

    @property
    def diagnostics(self) -> Diagnostics:
        """Figures of the spectrum that people know from elsewhere; computed when asked for."""
        return diagnose(self.spectrum, self.fit)

    def size(self, layout: Layout | None) -> int:
        """Weights that the layer has in this layout: those of its factors where it is split."""
        split = self.untouched is None and layout is Layout.FACTORED
        return self.factored_size if split else self.layer.size

    def macs(self, layout: Layout | None) -> int:
        """Multiply-adds at one position: a shared right factor is stored once and run by each."""
        split = self.untouched is None and layout is Layout.FACTORED
        return self.rank * sum(self.layer.shape) if split else self.layer.size

    @property
    def factored_size(self) -> int:
        """Weights of two factors of the planned rank; a sibling's right factor is the first's."""
        out, inputs = self.layer.shape
        return self.rank * (out if self.borrows else out + inputs)

    @property
    def borrows(self) -> bool:
        """Whether its right factor is that of an earlier sibling."""
        return self.group not in (None, self.layer.name)


@dataclass(frozen=True, slots=True)
class Data:
    """What calibration found out about one layer, and how it is to be used."""

    moments: Moments
    bias: bool
    gradients: bool


def fit_layer(
    layer: Layer,
    edge: EdgeEstimator,
    *,
    approximate: bool = False,
    data: Data | None = None,
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


def plan_layer(
    fitted: Fitted, chosen: int | Untouched, *, layout: Layout, taken: Collection[str] = ()
) -> LayerPlan:
    """A layer's fate, given what was chosen for it.

    Args:
        fitted: the layer.
        chosen: a rank, or why it stays as it is.
        layout: whether a rank has to save parameters; siblings' ranks do so together.
        taken: tensor names that factors must not take.
    """
    layer, s = fitted.layer, fitted.spectrum
    if not isinstance(chosen, Untouched) and fitted.group is None:
        if chosen == 0:
            chosen = Untouched.NO_RANK
        elif chosen == s.p:
            chosen = Untouched.FULL_RANK
        elif layout is Layout.FACTORED and not layer.view.splits:
            chosen = Untouched.NO_FACTORS
        elif layout is Layout.FACTORED and chosen > layer.break_even_rank:
            chosen = Untouched.NOT_SMALLER
        elif layout is Layout.FACTORED and not factor_names(layer).isdisjoint(taken):
            chosen = Untouched.NAME_TAKEN
    untouched = chosen if isinstance(chosen, Untouched) else None
    rank = s.p if isinstance(chosen, Untouched) else chosen
    factors, loss = None, None
    if untouched is None and fitted.approximation is not None:
        factors = fitted.approximation.factors(rank)
        losses = fitted.approximation.losses
        if not isinstance(fitted.approximation, Plain):
            loss = float(losses[rank:].sum() / losses.sum()) if losses.any() else 0.0
    return LayerPlan(
        layer,
        fitted.fit,
        replace(s, form=None),
        fitted.spikes,
        rank,
        untouched,
        s.relative_error(rank),
        loss,
        factors,
        fitted.vectors,
        fitted.group if untouched is None else None,
    )


def factor_names(layer: Layer) -> set[str]:
    """The names that a layer's factors and moved bias would have."""
    return {end for name in (layer.tensor, *layer.aliases) for end in factors_of(module_of(name))}
