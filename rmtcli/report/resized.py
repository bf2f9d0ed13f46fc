"""The result of resizing an adapter."""

from __future__ import annotations

from dataclasses import dataclass

from rmtcli.adapters import AdaptedLayer
from rmtcli.edges import EdgeFit
from rmtcli.report.formatting import before_after, count_of, shape_of, shown, significant, word_of
from rmtcli.report.record import as_text, change_of, header


@dataclass(frozen=True, slots=True, eq=False)
class ResizedLayer:
    """One layer of an adapter before and after.

    Attributes:
        layer: the layer before.
        rank: its rank after; 0 if it was dropped.
        kept: the share of the Frobenius norm of B A that is kept, in [0, 1].
        norm: Frobenius norm of the change of the weight before, with the scale.
        fit: the fit of the noise, if the rule needed one.
        spikes: number of singular values above the edge, if there is a fit.
        reason: why the layer was dropped or left as it is; empty if it was made smaller.
    """

    layer: AdaptedLayer
    rank: int
    kept: float
    norm: float
    fit: EdgeFit | None = None
    spikes: int | None = None
    reason: str = ""

    @property
    def size(self) -> int:
        """Parameters of its factors."""
        return self.rank * sum(self.layer.shape)


@dataclass(frozen=True, slots=True, eq=False)
class Resized:
    """An adapter before and after.

    Attributes:
        path: the adapter that was read.
        output: what was written; None in a dry run.
        method: what decided the ranks, as a user would ask for it.
        layers: its layers, in its order.
        saved: parameters of the tensors that replace the base's own, which stay.
        bytes: bytes of all tensors before and after.
        notes: sentences that a user should read.
    """

    path: str
    output: str | None
    method: str
    layers: tuple[ResizedLayer, ...]
    saved: int
    bytes: tuple[int, int]
    notes: tuple[str, ...] = ()

    @property
    def parameters(self) -> tuple[int, int]:
        """Parameters before and after."""
        sizes = [(x.layer.rank * sum(x.layer.shape), x.size) for x in self.layers]
        before, after = (sum(column) for column in zip(*sizes, strict=True))
        return before + self.saved, after + self.saved

    @property
    def kept(self) -> float:
        """The share of the Frobenius norm of all changes together that is kept."""
        total = sum(x.norm**2 for x in self.layers)
        part = sum((x.kept * x.norm) ** 2 for x in self.layers)
        return (part / total) ** 0.5 if total else 1.0

    def rows(self) -> tuple[list[str], list[list[str]]]:
        """Column names, and one row per layer."""
        fitted = any(x.fit is not None for x in self.layers)
        headings = ["layer", "shape", "rank", "norm kept", "‖ΔW‖"]
        headings += ["spikes", "verdict"] if fitted else []
        return headings, [_row(x, fitted) for x in self.layers]

    def summary(self) -> list[tuple[str, str]]:
        """The lines that a terminal shows: label and text."""
        reasons: dict[str, list[str]] = {}
        for x in self.layers:
            if x.reason:
                reasons.setdefault(x.reason, []).append(shown(x.layer.module))
        lines = [
            ("ranks by", self.method),
            ("parameters", before_after(*self.parameters)),
            ("bytes", before_after(*self.bytes)),
            ("norm kept", f"{100 * self.kept:.2f} %"),
        ]
        lines += [(count_of(len(names), "layer"), text) for text, names in reasons.items()]
        lines += [("wrote", shown(self.output))] if self.output else []
        return [*lines, *(("note", note) for note in self.notes)]

    def to_json(self, command: str | None = None, *, ascii_only: bool = False) -> str:
        """The result as JSON text.

        Args:
            command: the command line that made it, or None from Python.
            ascii_only: whether to write every other character as an escape.
        """
        record = header() | {
            "command": command,
            "action": "resize",
            "source": self.path,
            "output": self.output,
            "method": self.method,
            "parameters": change_of(*self.parameters),
            "bytes": change_of(*self.bytes),
            "kept": self.kept,
            "layers": [_record(x) for x in self.layers],
            "notes": list(self.notes),
        }
        return as_text(record, ascii_only=ascii_only)


def _row(x: ResizedLayer, fitted: bool) -> list[str]:
    rank = f"{x.layer.rank}" if x.rank == x.layer.rank else f"{x.layer.rank} → {x.rank}"
    cells = [
        shown(x.layer.module),
        shape_of(x.layer.shape),
        rank,
        f"{100 * x.kept:.2f} %",
        significant(x.norm),
    ]
    if not fitted:
        return cells
    verdict = "" if x.fit is None else word_of(x.fit.verdict)
    return [*cells, "" if x.spikes is None else str(x.spikes), verdict]


def _record(x: ResizedLayer) -> dict[str, object]:
    fit = x.fit
    return {
        "name": x.layer.module,
        "kind": x.layer.kind.value,
        "shape": list(x.layer.shape),
        "rank": {"before": x.layer.rank, "after": x.rank},
        "scale": x.layer.scale,
        "norm": x.norm,
        "kept": x.kept,
        "spikes": x.spikes,
        "sigma": None if fit is None else fit.law.sigma,
        "fit_p_value": None if fit is None else fit.p_value,
        "verdict": None if fit is None else fit.verdict.name.lower(),
        "reason": x.reason or None,
    }
