"""The decision on one layer: its rank and layout, or the reason why it stays as it is."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass, replace

from rmtcli.arrays import FloatArray
from rmtcli.checkpoint.dtypes import TYPES
from rmtcli.diagnostics import Diagnostics, VectorTest, diagnose
from rmtcli.edges import EdgeFit
from rmtcli.keep import Untouched
from rmtcli.layers import Layer
from rmtcli.layouts import Layout
from rmtcli.planning.fit import Fitted, Plain
from rmtcli.spectra import Factors, Spectrum


@dataclass(frozen=True, slots=True, eq=False)
class LayerPlan:
    """One layer's fit, and what is done with the layer.

    Attributes:
        layer: the layer.
        layout: how it is stored if it is pruned.
        fit: its noise law, edge and verdict.
        spectrum: its eigenvalues, without vectors.
        spikes: number of eigenvalues above the edge.
        rank: number of singular values to keep; p if the layer stays as it is or becomes narrower
            and no more.
        untouched: why it stays as it is, or None if it is pruned.
        relative_error: ‖W − W_r‖_F / ‖W‖_F of plain truncation to that rank.
        predicted_loss: expected loss on the calibration data of the calibrated factors, before any
            refinement, and of rounding to few bits, relative to dropping the layer (of siblings, to
            dropping all of them); None without calibration.
        factors: the two factors, if they were asked for and the layer is pruned.
        vectors: comparison of the spikes' vectors with noise, if they are known.
        group: name of the first of the pruned layers that share its right factor, perhaps its own;
            None if it has a right factor to itself.
        sha256: hash of the layer's bytes as stored, or None if it was not asked for.
        narrowed: (out, in) after a hidden layer beside it was made narrower; None if none was.
        bits: bits per entry in which its matrices are stored; None if they keep their type.
    """

    layer: Layer
    layout: Layout
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
    sha256: str | None = None
    narrowed: tuple[int, int] | None = None
    bits: int | None = None

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
        """Figures of the spectrum that people know from other tools; computed at each access."""
        return diagnose(self.spectrum, self.fit)

    @property
    def shape(self) -> tuple[int, int]:
        """(out, in), after hidden layers beside it were made narrower."""
        return self.narrowed or self.layer.shape

    @property
    def ranked(self) -> bool:
        """Whether it is replaced by an approximation of lower rank."""
        return self.untouched is None and self.rank < min(self.shape)

    @property
    def size(self) -> int:
        """Number of values stored for the weight; of a shared right factor, with the first only."""
        if self.untouched is not None:
            return self.layer.size
        return self.layout.values(*self.shape, self.rank, shares=self.shares_with is not None)

    @property
    def bytes(self) -> int:
        """Bytes stored for the weight and for positions of its outputs, under each of its names."""
        positions = 0 if self.untouched else self.layout.index_bytes * self.shape[0]
        return self.layer.copies * (self.size * TYPES[self.layer.dtype].width + positions)

    @property
    def macs(self) -> int:
        """Multiply-adds at one position; each of several siblings runs the shared right factor."""
        if self.untouched is not None:
            return self.size
        return self.layout.macs(*self.shape, self.rank, shares=self.shares_with is not None)

    @property
    def shares_with(self) -> str | None:
        """Name of the earlier sibling whose right factor it uses; None if it stores its own."""
        return None if self.group == self.layer.name else self.group


def plan_layer(
    fitted: Fitted, chosen: int | Untouched, *, layout: Layout, taken: Collection[str] = ()
) -> LayerPlan:
    """The plan for a layer, given the rank that was chosen for it.

    Args:
        fitted: the layer.
        chosen: a rank, or why the layer stays as it is.
        layout: how it is stored if it is pruned. A rank that the layout cannot store with a gain
            leaves the layer as it is; siblings' ranks were checked together before.
        taken: tensor names that new tensors must not take.
    """
    layer, s = fitted.layer, fitted.spectrum
    if not isinstance(chosen, Untouched) and fitted.group is None:
        if chosen == 0:
            chosen = Untouched.NO_RANK
        elif chosen == s.p:
            chosen = Untouched.FULL_RANK
        else:
            chosen = layout.refusal(layer, chosen, taken) or chosen
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
        layout,
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
        fitted.sha256,
    )
