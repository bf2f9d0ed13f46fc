"""The contents of a checkpoint, and how rmtcli made it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import asdict, dataclass

from rmtcli.checkpoint import Manifest
from rmtcli.checkpoint.names import unit_of, weight_of
from rmtcli.layouts import Dense, Factored, Layout, Pivoted
from rmtcli.report.base import Source
from rmtcli.report.formatting import count_of, shape_of
from rmtcli.report.record import as_text, header


@dataclass(frozen=True, slots=True)
class AdapterFigures:
    """Figures of a LoRA adapter.

    Attributes:
        style: its format, ``peft`` or ``kohya``.
        base: name or path of its base, if known.
        layers: number of layers that it changes.
        ranks: the smallest and the largest rank.
        whole: number of tensors that replace the base's own.
        magnitudes: whether it has magnitudes (DoRA).
    """

    style: str
    base: str | None
    layers: int
    ranks: tuple[int, int]
    whole: int
    magnitudes: bool

    @property
    def lines(self) -> list[tuple[str, str]]:
        """The lines that a terminal shows: label and text."""
        least, largest = self.ranks
        ranks = f"rank {least}" if least == largest else f"ranks {least} to {largest}"
        dora = ", with magnitudes (DoRA)" if self.magnitudes else ""
        lines = [("changes", f"{count_of(self.layers, 'layer')}, {ranks}{dora}")]
        lines += [("replaces", count_of(self.whole, "tensor"))] if self.whole else []
        return [*lines, *([("base", self.base)] if self.base else [])]


@dataclass(frozen=True, slots=True)
class Info:
    """A checkpoint's contents and origin.

    Attributes:
        source: the checkpoint.
        form: name of its format.
        files: names of the files that hold its tensors.
        types: number of tensors of each data type.
        model_type: the model type in its configuration, or None.
        manifest: rmtcli's record of how it was made, or None if rmtcli did not write it.
        adapter: the figures of a LoRA adapter; None of any other checkpoint.
        notes: what was read that a user may not expect, as sentences.
    """

    source: Source
    form: str
    files: tuple[str, ...]
    types: Mapping[str, int]
    model_type: str | None
    manifest: Manifest | None
    notes: tuple[str, ...] = ()
    adapter: AdapterFigures | None = None

    @property
    def lines(self) -> list[tuple[str, str]]:
        """The lines that a terminal shows: label and text."""
        source, manifest = self.source, self.manifest
        kind = "" if self.model_type is None else f", model type {self.model_type}"
        types = ", ".join(f"{count} {name}" for name, count in self.types.items())
        other = f", {source.other_bytes:,} of other objects" if source.other_bytes else ""
        lines = [
            ("format", f"{self.form}{kind}"),
            ("weights in", ", ".join(self.files)),
            ("tensors", f"{source.tensors:,} ({types})"),
            ("parameters", f"{source.parameters:,}"),
            ("bytes on disk", f"{source.bytes:,}{other}"),
            ("sha256", source.sha256),
            *(("note", text) for text in self.notes),
        ]
        if self.adapter is not None:
            return [*lines, *self.adapter.lines]
        if manifest is None:
            return [
                *lines,
                ("rmtcli", "no record: not written by rmtcli, or converted back to dense"),
            ]
        kinds = {"widths": manifest.narrowed, "ranks": manifest.ranks or not manifest.narrowed}
        decided = " and ".join(kind for kind, layers in kinds.items() if layers)
        lines += [
            ("rmtcli", manifest.rmtcli),
            ("made from", f"{manifest.source}, sha256 {manifest.source_sha256}"),
            (f"{decided} by", manifest.made_by or f"keep {manifest.keep}"),
            ("edge", manifest.edge),
        ]
        lines += [("stored in", text) for text in _in_bits(manifest)]
        ranks = manifest.ranks or {weight_of(name): r for name, r in manifest.factored.items()}
        lines += [
            ("layer", f"{name}: narrowed from {shape_of((out, inputs))}{_to(manifest, name)}")
            for name, (out, inputs) in manifest.narrowed.items()
        ]
        lines += [("config.json", f"{name} {w}") for name, w in manifest.entries.items()]
        return lines + [
            ("layer", f"{name}: rank {rank}, {_stored(manifest, unit_of(name))}")
            for name, rank in ranks.items()
        ]

    def to_json(self) -> str:
        """All of this as JSON text, in ASCII."""
        record = header() | {
            "source": asdict(self.source),
            "format": self.form,
            "files": list(self.files),
            "types": dict(self.types),
            "model_type": self.model_type,
            "manifest": None if self.manifest is None else asdict(self.manifest),
            "adapter": None if self.adapter is None else asdict(self.adapter),
            "notes": list(self.notes),
        }
        return as_text(record, ascii_only=True)


def _to(manifest: Manifest, name: str) -> str:
    """The shape of a narrower layer, if rmtcli's loader gives it the shape."""
    if name not in manifest.shapes:
        return ""
    outputs, inputs = manifest.shapes[name]
    return f" to {shape_of((outputs, inputs))}, which transformers knows by rmtcli's loader only"


def _in_bits(manifest: Manifest) -> list[str]:
    """How many tensors are stored in how few bits, in words."""
    counts = Counter((entry["bits"], entry["group"]) for entry in manifest.packed.values())
    return [
        f"{bits} bits, groups of {group}: {count_of(count, 'tensor')}"
        for (bits, group), count in sorted(counts.items())
    ]


def _stored(manifest: Manifest, module: str) -> str:
    """How a pruned layer is stored, in words."""
    layout: Layout = Dense()
    if module in manifest.factored:
        layout = Pivoted() if module in manifest.pivoted else Factored()
    if module in manifest.shared:
        return f"{layout.action}, shares {layout.shares} with {manifest.shared[module]}"
    return layout.action
