"""What is to be done with each layer."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from enum import Enum

import numpy as np

from rmtcli.edges import EdgeEstimator, EdgeFit
from rmtcli.factorize import Factors, factorize
from rmtcli.keep import KeepRule, Untouched
from rmtcli.layers import Layer, Skipped, SkipReason
from rmtcli.spectrum import spectrum


class Layout(Enum):
    """How a pruned layer is stored."""

    FACTORED = "factored"
    DENSE = "dense"


@dataclass(frozen=True, slots=True, eq=False)
class LayerPlan:
    """One layer's fit and its fate.

    Attributes:
        layer: the layer.
        fit: its noise law, edge and verdict.
        spikes: eigenvalues above the edge.
        largest: largest eigenvalue, s₁²/n.
        rank: singular values to keep; p where the layer stays as it is.
        untouched: why it stays as it is, or None where it is pruned.
        relative_error: ‖W − W_r‖_F / ‖W‖_F at that rank.
        factors: the two factors, where they were asked for and the layer is pruned.
    """

    layer: Layer
    fit: EdgeFit
    spikes: int
    largest: float
    rank: int
    untouched: Untouched | None
    relative_error: float
    factors: Factors | None = None

    @property
    def factored_size(self) -> int:
        """Weights of two factors of the planned rank."""
        return self.rank * sum(self.layer.shape)


def plan_layer(
    layer: Layer,
    *,
    edge: EdgeEstimator,
    keep: KeepRule,
    layout: Layout,
    taken: Collection[str] = (),
    factors: bool = False,
) -> LayerPlan | Skipped:
    """Fit one layer and decide its rank: its only decomposition.

    Args:
        layer: the layer.
        edge: fits the noise.
        keep: turns spectrum and fit into a rank.
        layout: whether a rank has to save parameters.
        taken: tensor names that factors must not take.
        factors: whether to compute the factors as well.
    """
    weight = layer.load()
    if not np.isfinite(weight).all():
        return Skipped(layer.name, SkipReason.NOT_FINITE)
    if not weight.any():
        return Skipped(layer.name, SkipReason.ZERO)
    s = spectrum(weight, vectors=factors)
    fit = edge.fit(s)
    chosen = Untouched.HEAD if layer.head else keep.rank(s, fit)
    if not isinstance(chosen, Untouched):
        if chosen == s.p:
            chosen = Untouched.FULL_RANK
        elif layout is Layout.FACTORED and chosen > layer.break_even_rank:
            chosen = Untouched.NOT_SMALLER
        elif layout is Layout.FACTORED and not factor_names(layer).isdisjoint(taken):
            chosen = Untouched.NAME_TAKEN
    untouched = chosen if isinstance(chosen, Untouched) else None
    rank = s.p if isinstance(chosen, Untouched) else chosen
    return LayerPlan(
        layer,
        fit,
        s.count_above(fit.edge),
        float(s.eigenvalues[-1]),
        rank,
        untouched,
        s.relative_error(rank),
        factorize(weight, s, rank) if factors and untouched is None else None,
    )


def factor_names(layer: Layer) -> set[str]:
    """The names that a layer's factors and moved bias would have."""
    modules = [name.rpartition("weight")[0] for name in (layer.name, *layer.aliases)]
    return {f"{m}{end}" for m in modules for end in ("0.weight", "1.weight", "1.bias")}
