"""The report of a run, as a value."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rmtcli.checkpoint.dtypes import TYPES
from rmtcli.keep import Untouched
from rmtcli.layers import Skipped
from rmtcli.layouts import LAYOUTS, Layout, ReadBack
from rmtcli.report.curve import Point
from rmtcli.report.extracted import Extracted
from rmtcli.report.measured import measured
from rmtcli.report.record import (
    as_text,
    calibrated_of,
    change_of,
    header,
    latency_of,
    layer_of,
    readback_of,
)

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from rmtcli.calibration import Calibrated
    from rmtcli.evaluation import Comparison
    from rmtcli.planning import Budget, Guard, Latency, LayerPlan, Plan


@dataclass(frozen=True, slots=True)
class Source:
    """A checkpoint as the report names it.

    Attributes:
        path: as the user wrote it.
        sha256: SHA-256 of the checkpoint.
        bytes: size in bytes.
        tensors: number of tensors.
        parameters: number of entries of all tensors together; whole numbers and masks are none.
        other_bytes: of these bytes, those of objects beside the network, such as the state of an
            optimizer.
        tensor_bytes: bytes of all tensors of the network together; shared storage counts once.
    """

    path: str
    sha256: str
    bytes: int
    tensors: int
    parameters: int
    other_bytes: int = 0
    tensor_bytes: int = 0


@dataclass(frozen=True, slots=True)
class Tensor:
    """A tensor of the dense network.

    Attributes:
        name: its name.
        before: its bytes.
        after: bytes of the tensors that take its place; 0 where another tensor holds its values.
    """

    name: str
    before: int
    after: int


class ShowsItself:
    """What a result shows of itself in Python, and writes.

    Renderers read results, and results show themselves with them: the one circle of imports in
    this package, so these imports are in the methods.
    """

    __slots__ = ()

    def save(self: Any, path: str | Path) -> None:
        """Write the result to a file: ``.html``, ``.md``, ``.json``, or ``.xml`` for JUnit.

        Raises:
            UsageError: the ending names no format, a package is missing, or the file cannot be
                written.
        """
        from rmtcli.report.views import save

        save(self, path)

    def __str__(self: Any) -> str:
        """What the command line prints."""
        from rmtcli.report.views import as_text

        return as_text(self)

    def __repr__(self: Any) -> str:
        """The result in one line."""
        from rmtcli.report.views import as_words

        return as_words(self)

    def _repr_html_(self: Any) -> str:
        """The table and the summary, for IPython."""
        from rmtcli.report.views import as_fragment

        return as_fragment(self)


@dataclass(frozen=True, slots=True, eq=False, repr=False)
class Report(ShowsItself):
    """Results of a run.

    Attributes:
        action: ``analyze``, ``prune``, ``finetune``, ``densify``, ``merge``, ``curve``,
            ``evaluate``, ``simulate``, ``extract`` or ``repair``.
        source: the input.
        output: the checkpoint that was written, or None.
        reference: the network that an evaluation compares with, or the base of an adapter, or None.
        edge: the edge estimator with all its options; None if none was used.
        keep: the keep rule with all its options; None if none was used.
        made_by: the option that decides the ranks, as a user would give it.
        layout: how pruned layers are stored; None if there are none.
        layers: every layer, in the checkpoint's order.
        skipped: every matrix that is not a layer, with the reason.
        comparison: scores, or None if nothing was measured.
        calibrated: where the statistics of the layers' inputs came from, or None.
        budget: the limit on the model's cost, or None.
        guard: the limit on the loss of accuracy, or None.
        plan: the ranks, as they can be written, edited and applied again; None if there are none.
        readback: result of reading the output back; None if it was not read.
        latency: forward times at each batch size that was asked for, smallest first.
        curve: networks of several sizes, largest first; empty except after ``curve``.
        notes: sentences that a user should read.
        left: number of parameters of the pruned network; None where none was made.
        bytes_left: bytes of its tensors.
        bits: bits per entry in which matrices are stored; None for the types that they had.
        vocabulary: numbers of tokens before and after; None where no tokens were dropped.
        extracted: what an adapter holds of the change that it was made from; None for others.
        tensors: bytes of each tensor, before and after; storage shared by several names is the
            first one's. Empty where nothing is pruned. They are on the page only, not in JSON.
    """

    action: str
    source: Source
    output: Source | None = None
    reference: Source | None = None
    edge: str | None = None
    keep: str | None = None
    made_by: str = ""
    layout: Layout | None = None
    layers: tuple[LayerPlan, ...] = ()
    skipped: tuple[Skipped, ...] = ()
    comparison: Comparison | None = None
    calibrated: Calibrated | None = None
    budget: Budget | None = None
    guard: Guard | None = None
    plan: Plan | None = None
    readback: ReadBack | None = None
    latency: tuple[Latency, ...] = ()
    curve: tuple[Point, ...] = ()
    notes: tuple[str, ...] = ()
    left: int | None = None
    bytes_left: int | None = None
    bits: int | str | None = None
    vocabulary: tuple[int, int] | None = None
    extracted: Extracted | None = None
    tensors: tuple[Tensor, ...] = ()

    @property
    def pruned(self) -> tuple[LayerPlan, ...]:
        """The layers that are changed, or would be changed in a dry run."""
        return tuple(plan for plan in self.layers if plan.untouched is None)

    @property
    def of_adapter(self) -> bool:
        """Whether the layers are those of an adapter that was analysed."""
        return any(plan.untouched is Untouched.ADAPTER for plan in self.layers)

    @property
    def changes(self) -> bool:
        """Whether the network changes, or would change in a dry run."""
        kept = self.guard is not None and self.guard.drop is None
        rounded = self.bits is not None and not kept
        return bool(self.pruned) or rounded or self.vocabulary is not None

    @property
    def pruned_parameters(self) -> tuple[int, int]:
        """Number of weights stored for the pruned layers, before and after."""
        before = sum(plan.layer.copies * plan.layer.size for plan in self.pruned)
        return before, sum(plan.layer.copies * plan.size for plan in self.pruned)

    @property
    def parameters(self) -> tuple[int, int]:
        """Parameters before and after; those of the output, if one was written."""
        if self.output is not None:
            return self.source.parameters, self.output.parameters
        if self.left is not None:
            return self.source.parameters, self.left
        before, after = self.pruned_parameters
        return self.source.parameters, self.source.parameters + after - before

    @property
    def tensor_bytes(self) -> tuple[int, int]:
        """Bytes of the network's tensors before and after; the output's, if one was written."""
        before = self.source.tensor_bytes
        if self.output is not None:
            return before, self.output.tensor_bytes
        if self.bytes_left is not None:
            return before, self.bytes_left
        dense = (p.layer.copies * p.layer.size * TYPES[p.layer.dtype].width for p in self.pruned)
        return before, before - sum(dense) + sum(plan.bytes for plan in self.pruned)

    def to_dict(self, command: str | None = None) -> dict[str, Any]:
        """The report as plain values, for JSON.

        Args:
            command: the command line that made it, or None from Python.
        """
        return header() | {
            "command": command,
            "action": self.action,
            "source": asdict(self.source),
            "output": asdict(self.output) if self.output else None,
            "reference": asdict(self.reference) if self.reference else None,
            "readback": readback_of(self.readback),
            "options": {
                "edge": self.edge,
                "keep": self.keep,
                "layout": LAYOUTS.spell(self.layout) if self.layout else None,
                "bits": self.bits,
                "budget": asdict(self.budget) if self.budget else None,
            },
            "calibration": calibrated_of(self.calibrated),
            "guard": asdict(self.guard) if self.guard else None,
            "parameters": change_of(*self.parameters),
            "vocabulary": change_of(*self.vocabulary) if self.vocabulary else None,
            "pruned_layers": change_of(*self.pruned_parameters) | {"count": len(self.pruned)},
            "accuracy": measured(self.comparison),
            "latency": [latency_of(latency) for latency in self.latency],
            "curve": [
                point.to_dict(self.source.parameters, self.source.tensor_bytes)
                for point in self.curve
            ],
            "layers": [
                layer_of(plan, readback=self.readback, latency=self.latency) for plan in self.layers
            ],
            "skipped": [{"name": s.name, "reason": s.reason.value} for s in self.skipped],
            "notes": list(self.notes),
            **({} if self.extracted is None else {"adapter": self.extracted.to_dict()}),
        }

    def to_json(self, command: str | None = None, *, ascii_only: bool = False) -> str:
        """The report as JSON text; numbers that are not finite never occur.

        Args:
            command: the command line that made it, or None from Python.
            ascii_only: whether to write every other character as an escape.
        """
        return as_text(self.to_dict(command), ascii_only=ascii_only)

    def to_pandas(self) -> Any:
        """A data frame with one row per layer, or per network of a curve; needs pandas.

        A field that JSON nests is a column with a dot in its name, such as ``parameters.after``.
        """
        import pandas

        record = self.to_dict()
        return pandas.json_normalize(record["curve"] or record["layers"])

    def plot(self, layer: str | None = None) -> Figure:
        """Draw the measured curve, or the spectrum of a layer; by default that of the first one.

        Raises:
            UsageError: there is no such layer, or matplotlib is not installed.
        """
        from rmtcli.report.views import figure

        return figure(self, layer)
