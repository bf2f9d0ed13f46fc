"""Two checkpoints, layer by layer: what a training run or a quantisation has changed."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass

from rmtcli.report.base import Source
from rmtcli.report.record import as_text, header
from rmtcli.report.rows import shown

#: What conditions may name, and what it is.
FIELDS = {
    "layers.count": "layers in both checkpoints",
    "layers.changed": "layers whose weights differ",
    "layers.missing": "layers in only one checkpoint, or with different shapes",
    "change.max": "largest ‖A − B‖/‖A‖ of a layer (Frobenius norms)",
    "change.mean": "mean of ‖A − B‖/‖A‖ over the layers",
    "spikes.max": "largest change of a layer's number of spikes, up or down",
    "edge.max": "largest change of a layer's edge, as a share of the larger edge",
    "rank.max": "largest change of a layer's rank, up or down",
}


@dataclass(frozen=True, slots=True)
class Figures:
    """A layer in one of the checkpoints.

    Attributes:
        norm: Frobenius norm.
        largest: largest singular value.
        stable_rank: ‖W‖_F²/‖W‖₂².
        rank: singular values above rounding.
        sigma: deviation of the noise.
        edge: as a singular value.
        spikes: singular values above it.
    """

    norm: float
    largest: float
    stable_rank: float
    rank: int
    sigma: float
    edge: float
    spikes: int


@dataclass(frozen=True, slots=True)
class LayerDifference:
    """One layer in both checkpoints, A and B.

    Attributes:
        name: its name.
        shape: (out, in).
        change: ‖A − B‖/‖A‖, Frobenius norms; 0 for equal weights.
        spectral: largest difference of two singular values in the same place of the order, as a
            share of A's largest.
        before: A.
        after: B.
    """

    name: str
    shape: tuple[int, int]
    change: float
    spectral: float
    before: Figures
    after: Figures


@dataclass(frozen=True, slots=True)
class Difference:
    """Two checkpoints, A and B.

    Attributes:
        before: A.
        after: B.
        edge: the edge estimator.
        layers: those that both hold, in A's order.
        missing: names that only one holds, or with another shape, and which.
    """

    before: Source
    after: Source
    edge: str
    layers: tuple[LayerDifference, ...]
    missing: tuple[tuple[str, str], ...]

    @property
    def values(self) -> dict[str, float | None]:
        """The fields that conditions may name; None where there are no layers."""
        changes = [layer.change for layer in self.layers]
        pairs = [(layer.before, layer.after) for layer in self.layers]
        edges = [abs(b.edge - a.edge) / (max(a.edge, b.edge) or 1.0) for a, b in pairs]
        return {
            "layers.count": len(self.layers),
            "layers.changed": sum(change > 0 for change in changes),
            "layers.missing": len(self.missing),
            "change.max": max(changes, default=None),
            "change.mean": sum(changes) / len(changes) if changes else None,
            "spikes.max": max((abs(b.spikes - a.spikes) for a, b in pairs), default=None),
            "edge.max": max(edges, default=None),
            "rank.max": max((abs(b.rank - a.rank) for a, b in pairs), default=None),
        }

    def rows(self) -> tuple[list[str], list[list[str]]]:
        """Headings, and a row a layer."""
        headings = ["layer", "shape", "‖A−B‖/‖A‖", "Δs/s₁", "‖A‖ → ‖B‖", "s₁", "stable rank"]
        headings += ["rank", "edge s₊", "spikes"]
        return headings, [_row(layer) for layer in self.layers]

    def summary(self) -> list[tuple[str, str]]:
        """What a reader wants to know first: label and text."""
        found = self.values
        changed, count = found["layers.changed"], found["layers.count"]
        lines = [
            ("A", f"{self.before.path}: {self.before.parameters:,} parameters"),
            ("B", f"{self.after.path}: {self.after.parameters:,} parameters"),
            ("changed", f"{changed} of {count} layers"),
        ]
        if self.layers:
            widest = max(self.layers, key=lambda layer: layer.change)
            lines.append(("most", f"{widest.name}: {100 * widest.change:.3g} % of its norm"))
        lines += [(f"only in {which}", name) for name, which in self.missing]
        return [(label, shown(text)) for label, text in lines]

    def to_json(self, command: str | None = None, *, ascii_only: bool = False) -> str:
        """The difference as JSON text."""
        record = header() | {
            "command": command,
            "action": "diff",
            "source": asdict(self.before),
            "against": asdict(self.after),
            "edge": self.edge,
            "totals": self.values,
            "layers": [asdict(layer) for layer in self.layers],
            "missing": [{"name": name, "only_in": which} for name, which in self.missing],
        }
        return as_text(record, ascii_only=ascii_only)


def _row(layer: LayerDifference) -> list[str]:
    a, b = layer.before, layer.after
    return [
        shown(layer.name),
        f"{layer.shape[0]}×{layer.shape[1]}",
        f"{layer.change:.3g}",
        f"{layer.spectral:.3g}",
        _pair(a.norm, b.norm),
        _pair(a.largest, b.largest),
        _pair(a.stable_rank, b.stable_rank),
        _pair(a.rank, b.rank),
        _pair(a.edge, b.edge),
        _pair(a.spikes, b.spikes),
    ]


def _pair(before: float, after: float) -> str:
    texts: Sequence[str] = [f"{value:.4g}" for value in (before, after)]
    return texts[0] if texts[0] == texts[1] else " → ".join(texts)
