"""What is to be done with each layer."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass, replace
from enum import Enum

from rmtcli.arrays import FloatArray
from rmtcli.checkpoint.names import factors_of, module_of
from rmtcli.diagnostics import Diagnostics, VectorTest, diagnose
from rmtcli.edges import EdgeFit
from rmtcli.keep import Untouched
from rmtcli.layers import Layer
from rmtcli.planning.fit import Fitted, Plain
from rmtcli.spectra import Factors, Spectrum


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
