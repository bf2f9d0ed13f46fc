"""The first screen of the page: the result in some tiles, and a map of where the numbers are."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from rmtcli.planning import LayerPlan
from rmtcli.report.base import Report
from rmtcli.report.formatting import count_of, percent_change, shown, time_change, timing
from rmtcli.report.headline import headline, sizes
from rmtcli.report.table import action

#: Largest number of layers in the map; smaller layers are one part together.
MAPPED = 60


@dataclass(frozen=True, slots=True)
class Tile:
    """One figure of the result.

    Attributes:
        label: what it measures.
        value: the figure.
        detail: where it comes from.
        grade: ``good``, ``fair``, ``bad`` or ``unknown``.
    """

    label: str
    value: str
    detail: str
    grade: str = "unknown"


@dataclass(frozen=True, slots=True)
class Part:
    """A part of the map, as wide as its share of the network.

    Attributes:
        name: the layer, or what the part holds.
        before: number of parameters before.
        after: number of parameters after.
        text: what was done.
        number: the number of its panel on the page; None without one.
    """

    name: str
    before: int
    after: int
    text: str
    number: int | None = None

    @property
    def kept(self) -> float:
        """What is left, in percent."""
        return 100 * min(1.0, self.after / self.before)


def tiles(report: Report) -> Iterator[Tile]:
    """Size, cost, work and measured time of a smaller network; nothing for other reports."""
    result = headline(report)
    if result is None:
        return
    before, after, unit = sizes(report)
    yield Tile("size", result.size, f"{before:,} → {after:,} {unit}")
    label, _, text = result.cost.partition(" ")
    known = report.comparison is not None
    yield (
        Tile(label, text, _data(report), result.grade.name.lower())
        if known
        else Tile("accuracy", "not measured", "give samples with --data")
    )
    work = sum(plan.layer.size for plan in report.layers)
    left = sum(plan.macs for plan in report.layers)
    if work:
        yield Tile("multiply-adds", percent_change(work, left), "of the fully connected layers")
    for times in report.latency:
        old, new = times.network or times.total
        where = "the network" if times.network else "the linear layers"
        at = f"of {where} at batch {times.batch}: {timing(old)} → {timing(new)}"
        yield Tile("time", time_change(old, new), at)


def _data(report: Report) -> str:
    samples = report.comparison and report.comparison.samples
    return f"on {len(samples.inputs):,} samples" if samples else "by your own score"


def parts(report: Report, drawn: int) -> list[Part]:
    """The layers in their order, small ones together at the end, and then all other tensors.

    Args:
        report: a report of layers.
        drawn: number of layers that have a panel on the page.
    """
    total = report.source.parameters
    if not report.layers or not total:
        return []
    largest = sorted(report.layers, key=_weights, reverse=True)[:MAPPED]
    chosen, small = {id(plan) for plan in largest}, list[LayerPlan]()
    result = []
    for number, plan in enumerate(report.layers, 1):
        if id(plan) not in chosen:
            small.append(plan)
            continue
        text = action(plan)
        result.append(
            Part(
                shown(plan.layer.name),
                _weights(plan),
                plan.layer.copies * plan.size,
                text,
                number if number <= drawn else None,
            )
        )
    if small:
        before, after = sum(map(_weights, small)), sum(p.layer.copies * p.size for p in small)
        result.append(Part(count_of(len(small), "smaller layer"), before, after, "together"))
    rest = total - sum(part.before for part in result)
    if rest > 0:
        result.append(Part("all other tensors", rest, rest, "embeddings, norms, biases: unchanged"))
    return result


def _weights(plan: LayerPlan) -> int:
    return plan.layer.copies * plan.layer.size
