"""The difference between two checkpoints, layer by layer."""

from __future__ import annotations

from dataclasses import asdict, dataclass

from rmtcli.report.base import ShowsItself, Source
from rmtcli.report.formatting import shown, significant
from rmtcli.report.record import as_text, header

#: The fields that conditions may use, with their meanings.
FIELDS = {
    "layers.count": "layers in both checkpoints",
    "layers.changed": "layers whose weights differ",
    "layers.missing": "layers in only one checkpoint, or with different shapes",
    "change.max": "largest ‖A − B‖/‖A‖ of a layer (Frobenius norms)",
    "change.mean": "mean of ‖A − B‖/‖A‖ over the layers",
    "spikes.max": "largest change of a layer's number of spikes, up or down",
    "edge.max": "largest change of a layer's edge, as a share of the larger edge",
    "rank.max": "largest change of a layer's rank, up or down",
    "update.spikes": "number of spikes in the differences of all layers, that is, their ranks "
    "above the noise",
    "update.new": "number of these spikes whose directions overlap with A's no more than random "
    "ones",
}
#: A direction with a larger p-value overlaps with A's leading directions no more than chance does.
CHANCE = 0.01


@dataclass(frozen=True, slots=True)
class Figures:
    """Figures of a layer in one of the checkpoints.

    Attributes:
        norm: Frobenius norm.
        largest: largest singular value.
        stable_rank: ‖W‖_F²/‖W‖₂².
        rank: number of singular values above rounding.
        sigma: standard deviation of a noise entry.
        edge: the edge as a singular value.
        spikes: number of singular values above the edge.
    """

    norm: float
    largest: float
    stable_rank: float
    rank: int
    sigma: float
    edge: float
    spikes: int


@dataclass(frozen=True, slots=True)
class Update:
    """Figures of the difference B − A of a layer.

    A direction that B has and A does not have is what Shuttleworth et al. (2024) call an intruder
    dimension, and find by a threshold on cosines. Here, each spike of B − A is a direction over
    the layer's outputs, and its overlap with A's spikes is compared with that of a random one.

    Attributes:
        sigma: standard deviation of a noise entry.
        edge: the edge as a singular value, by the estimator ``change``.
        spikes: number of singular values above the edge.
        noise: share of ‖B − A‖² that the noise has.
        verdict: whether the fit of the noise can be trusted, in lower case.
        overlaps: for each spike, the squared cosine between its direction and the space of A's
            spikes.
        p_values: the chance that a random direction overlaps as much (:mod:`rmtcli.law.overlap`).
    """

    sigma: float
    edge: float
    spikes: int
    noise: float
    verdict: str
    overlaps: tuple[float, ...]
    p_values: tuple[float, ...]

    @property
    def new(self) -> int:
        """Number of spikes that overlap with A's no more than chance does."""
        return sum(p >= CHANCE for p in self.p_values)


@dataclass(frozen=True, slots=True)
class LayerDifference:
    """One layer in both checkpoints, A and B.

    Attributes:
        name: name of the layer.
        shape: (out, in).
        change: ‖A − B‖/‖A‖ in Frobenius norms; 0 for equal weights.
        spectral: largest difference between the i-th singular values of A and B, as a share of A's
            largest singular value.
        before: figures in A.
        after: figures in B.
        update: figures of B − A; None where the two are equal.
    """

    name: str
    shape: tuple[int, int]
    change: float
    spectral: float
    before: Figures
    after: Figures
    update: Update | None = None


@dataclass(frozen=True, slots=True, repr=False)
class Difference(ShowsItself):
    """The difference between two checkpoints, A and B.

    Attributes:
        before: checkpoint A.
        after: checkpoint B.
        edge: the edge estimator with all its options.
        layers: the layers that both hold, in A's order.
        missing: layers that are not compared: name, and which checkpoint alone holds it; None if
            both do, with different shapes.
    """

    before: Source
    after: Source
    edge: str
    layers: tuple[LayerDifference, ...]
    missing: tuple[tuple[str, str | None], ...]

    @property
    def values(self) -> dict[str, float | None]:
        """The fields that conditions may use; a mean or maximum over no layers is None."""
        changes = [layer.change for layer in self.layers]
        pairs = [(layer.before, layer.after) for layer in self.layers]
        updates = [layer.update for layer in self.layers if layer.update is not None]
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
            "update.spikes": sum(update.spikes for update in updates),
            "update.new": sum(update.new for update in updates),
        }

    def rows(self) -> tuple[list[str], list[list[str]]]:
        """Column names, and one row per layer."""
        headings = ["layer", "shape", "‖A−B‖/‖A‖", "Δs/s₁", "‖A‖ → ‖B‖", "s₁", "stable rank"]
        headings += ["rank", "edge s₊", "spikes", "edge of B−A", "spikes of B−A", "new"]
        return headings, [_row(layer) for layer in self.layers]

    def summary(self) -> list[tuple[str, str]]:
        """The lines that a terminal shows: label and text."""
        values = self.values
        changed, count = values["layers.changed"], values["layers.count"]
        lines = [
            ("A", f"{self.before.path}: {self.before.parameters:,} parameters"),
            ("B", f"{self.after.path}: {self.after.parameters:,} parameters"),
            ("changed", f"{changed} of {count} layers"),
        ]
        if self.layers:
            widest = max(self.layers, key=lambda layer: layer.change)
            lines.append(
                ("most changed", f"{widest.name}: {100 * widest.change:.3g} % of its norm")
            )
        spikes, new = values["update.spikes"], values["update.new"]
        if spikes:
            text = (
                f"{spikes} spikes above the noise; {new} of them in directions that A does not have"
            )
            lines.append(("B − A", text))
        lines += [
            (f"only in {which}" if which else "other shape", name) for name, which in self.missing
        ]
        return [(label, shown(text)) for label, text in lines]

    def to_json(self, command: str | None = None, *, ascii_only: bool = False) -> str:
        """The difference as JSON text.

        Args:
            command: the command line that made it, or None from Python.
            ascii_only: whether to write every other character as an escape.
        """
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
        significant(layer.change, 3),
        significant(layer.spectral, 3),
        _pair(a.norm, b.norm),
        _pair(a.largest, b.largest),
        _pair(a.stable_rank, b.stable_rank),
        _pair(a.rank, b.rank),
        _pair(a.edge, b.edge),
        _pair(a.spikes, b.spikes),
        *_of_update(layer.update),
    ]


def _of_update(update: Update | None) -> list[str]:
    """Edge and spikes of B − A, and how many of them have new directions."""
    if update is None:
        return ["", "", ""]
    return [significant(update.edge), str(update.spikes), str(update.new)]


def _pair(before: float, after: float) -> str:
    texts = [str(x) if isinstance(x, int) else significant(x) for x in (before, after)]
    return texts[0] if texts[0] == texts[1] else " → ".join(texts)
