"""A map of the bytes of a checkpoint: what is kept, what is removed, and whether the law fits."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from rmtcli.edges import Verdict
from rmtcli.planning import LayerPlan
from rmtcli.report.base import Report, Tensor
from rmtcli.report.difference import Difference
from rmtcli.report.formatting import count_of, percent_change, shown, word_of
from rmtcli.report.renderers.html.content import Map, Region
from rmtcli.report.renderers.html.strips import Box, strips
from rmtcli.report.table import action

#: Width of the map divided by its height, as on a desktop.
ASPECT = 4.0
#: Largest number of regions on a page, and in a notebook.
MAPPED, FEW = 1200, 150
#: Smaller shares of the whole are one region together, which is no more than the second share.
SMALL, TOGETHER = 1 / 2000, 1 / 50
#: Meanings of the colours.
LEGEND = {
    "fits": "follows the law: the edge can be trusted",
    "apart": "does not follow the law",
    "other": "not judged: small, or not a fully connected layer",
}


@dataclass(frozen=True, slots=True)
class _Part:
    """A region without its place: name, size, what is solid of it, text, tone and panel."""

    name: str
    size: int
    solid: float
    text: str
    tone: str = "other"
    panel: int | None = None


def map_of(report: Report, panels: Mapping[str, int], most: int = MAPPED) -> Map | None:
    """The map of a report; None where the tensors are not known.

    Args:
        report: the report.
        panels: number of the panel of each layer that has one, by name.
        most: largest number of regions.
    """
    if not report.tensors:
        return None
    plans: dict[str, list[LayerPlan]] = {}
    for plan in report.layers:
        for name in (plan.layer.tensor, *plan.layer.tied):
            plans.setdefault(name, []).append(plan)
    parts = []
    for tensor in (item for item in report.tensors if item.before):
        own = plans.get(tensor.name, [])
        text = "; ".join([_change(tensor), *dict.fromkeys(map(_words, own))])
        panel = next((panels[x.layer.name] for x in own if x.layer.name in panels), None)
        solid = 100 * min(1.0, tensor.after / tensor.before)
        parts.append(_Part(shown(tensor.name), tensor.before, solid, text, _tone(own), panel))
    would = "--keep auto would keep" if report.action == "analyze" else "is kept"
    how = f"Each tensor is as large as its bytes: what {would} of it is solid, the rest is pale."
    regions = _placed(parts, most)
    tones = {region.tone for region in regions}
    legend = {tone: text for tone, text in LEGEND.items() if tone in tones}
    return Map("Where the bytes are", how, regions, legend)


def map_of_difference(difference: Difference) -> Map | None:
    """The map of the layers of two checkpoints; None without a layer."""
    parts = [
        _Part(
            shown(layer.name),
            layer.shape[0] * layer.shape[1],
            100 * min(1.0, layer.change),
            f"{layer.shape[0]}×{layer.shape[1]}, changed by {100 * layer.change:.3g} % of its norm",
            "fits",
        )
        for layer in difference.layers
    ]
    how = "Each layer is as large as its weights; the change is solid, as a share of the norm."
    return Map("Where the changes are", how, _placed(parts), {}) if parts else None


def _change(tensor: Tensor) -> str:
    """The bytes of a tensor, before and after."""
    if tensor.before == tensor.after:
        return f"{_bytes(tensor.before)}, unchanged"
    change = percent_change(tensor.before, tensor.after)
    return f"{_bytes(tensor.before)} → {_bytes(tensor.after)} ({change})"


def _tone(plans: Sequence[LayerPlan]) -> str:
    verdicts = [plan.fit.verdict for plan in plans if plan.fit.verdict is not Verdict.TOO_SMALL]
    if not verdicts:
        return "other"
    return "fits" if all(verdict.trusted for verdict in verdicts) else "apart"


def _words(plan: LayerPlan) -> str:
    rank = f"rank {plan.rank} of {min(plan.shape)}, " if plan.ranked else ""
    return f"{rank}{action(plan)}; {word_of(plan.fit.verdict)}"


def _bytes(count: int) -> str:
    for unit, size in (("GB", 1e9), ("MB", 1e6), ("kB", 1e3)):
        if count >= size:
            return f"{count / size:.3g} {unit}"
    return f"{count} bytes"


def _placed(parts: Sequence[_Part], most: int = MAPPED) -> list[Region]:
    """The parts on the map, in their order, with small ones as one region at the end."""
    small = _small(parts, most)
    large = [part for part in parts if part not in small]
    if small:
        size = sum(part.size for part in small)
        solid = sum(part.solid * part.size for part in small) / size
        text = f"{_bytes(size)} together"
        large.append(_Part(count_of(len(small), "small tensor"), size, solid, text))
    boxes = strips([part.size for part in large], ASPECT)
    return [
        Region(part.name, part.text, part.tone, part.solid,
               box.left, box.top, box.width, box.height, part.panel, _room(box))
        for part, box in zip(large, boxes, strict=True)
    ]  # fmt: skip


def _room(box: Box) -> str:
    """Where a region has room for a name, on a map of about 1,160 or 360 by 300 pixels."""
    if box.height < 6 or box.width < 5:
        return ""
    return "named wide" if box.width >= 16 else "named"


def _small(parts: Sequence[_Part], most: int) -> set[_Part]:
    """The parts that are too small for a region of their own."""
    total, size = sum(part.size for part in parts), 0
    small = set()
    for index, part in enumerate(sorted(parts, key=lambda part: part.size)):
        size += part.size
        few = part.size < SMALL * total and size <= TOGETHER * total
        if few or len(parts) - index > most:
            small.add(part)
    return small
