"""The result of a run in a few figures."""

from __future__ import annotations

from collections.abc import Iterator

from rmtcli.edges import Verdict
from rmtcli.evaluation import Comparison
from rmtcli.report.advice import chosen
from rmtcli.report.base import Report
from rmtcli.report.extracted import Extracted, percent
from rmtcli.report.formatting import count_of, percent_change, time_change, timing
from rmtcli.report.headline import cost, headline, sizes
from rmtcli.report.renderers.html.content import Tile


def tiles(report: Report) -> Iterator[Tile]:
    """Size, cost, work and measured time; of an analysis, what it says about the layers."""
    if report.curve:
        yield from _of_curve(report)
    elif report.action == "analyze":
        yield from _of_analysis(report)
    elif report.extracted is not None:
        yield from _of_adapter(report, report.extracted)
    elif report.action in ("prune", "finetune"):
        yield from _of_pruning(report)
    elif report.comparison is not None:
        yield Tile("parameters", f"{report.source.parameters:,}", report.comparison.network)
        yield _cost(report.comparison)
    yield from _times(report)


def _of_pruning(report: Report) -> Iterator[Tile]:
    result = headline(report)
    before, after, unit = sizes(report)
    if result is None:
        yield Tile("size", "unchanged", f"{before:,} {unit}")
    else:
        yield Tile("size", result.size, f"{before:,} → {after:,} {unit}")
    if report.comparison is None:
        yield Tile("cost", "not measured", "give samples with --data")
    else:
        yield _cost(report.comparison)
    if unit == "parameters" and report.output is not None:
        old, new = report.source.bytes, report.output.bytes
        yield Tile("bytes on disk", percent_change(old, new), f"{old:,} → {new:,}")
    yield from _work(report)


def _of_adapter(report: Report, extracted: Extracted) -> Iterator[Tile]:
    """The size of an adapter, its ranks, its part of the change, and the noise."""
    yield Tile("adapter", extracted.size, f"of {extracted.style}'s style")
    ranks = [plan.rank for plan in report.layers]
    low, high = min(ranks, default=0), max(ranks, default=0)
    value = f"{low}–{high}" if low < high else str(high)
    yield Tile("ranks", value, f"of {count_of(len(ranks), 'layer')}, {len(report.pruned)} adapted")
    share, _, what = extracted.words.partition(" of ")
    yield Tile("kept", share, f"of {what}")
    if extracted.by_output is not None:
        yield Tile("by output", percent(extracted.by_output), "in the metric of the calibration")
    yield Tile("noise", percent(extracted.noise), "of the change, by the fits of the layers")


def _cost(comparison: Comparison) -> Tile:
    """What the result costs, in colour by the loss."""
    text, grade = cost(comparison)
    name, _, value = text.partition(" ")
    samples = comparison.samples
    detail = f"on {len(samples.inputs):,} samples" if samples else "by your own score"
    if value.endswith(" with the dense network"):
        value, detail = value.removesuffix(" with the dense network"), f"with the dense, {detail}"
    if name == "what":  # nothing was measured that a line could say
        return Tile("cost", "not measured", "give samples with --data")
    return Tile(name, value, detail, grade.name.lower())


def _work(report: Report) -> Iterator[Tile]:
    work, left = sum(x.layer.size for x in report.layers), sum(x.macs for x in report.layers)
    if work:
        detail = f"{work:,} → {left:,} per position of the layers"
        yield Tile("multiply-adds", percent_change(work, left), detail)


def _times(report: Report) -> Iterator[Tile]:
    for latency in report.latency:
        if not (latency.network or latency.layers):
            continue
        old, new = latency.network or latency.total
        where = "the network" if latency.network else "the linear layers"
        at = f"of {where} at batch {latency.batch}: {timing(old)} → {timing(new)}"
        yield Tile("time", time_change(old, new), at)


def _of_analysis(report: Report) -> Iterator[Tile]:
    yield Tile("parameters", f"{report.source.parameters:,}", _tensors(report))
    judged = [x.fit.verdict for x in report.layers if x.fit.verdict is not Verdict.TOO_SMALL]
    if judged:
        trusted = sum(verdict.trusted for verdict in judged)
        share = trusted / len(judged)
        grade = "good" if share > 0.8 else "fair" if share >= 0.5 else "bad"
        value = f"{trusted} of {count_of(len(judged), 'layer')}"
        yield Tile("follow the law", value, "so that the edge can be trusted there", grade)
    spikes = sum(plan.spikes for plan in report.layers)
    yield Tile("spikes", f"{spikes:,}", "singular values above the edges, which are signal")
    if report.of_adapter:
        return
    before, after = report.parameters
    yield Tile("prune --keep auto", percent_change(before, after), f"{before:,} → {after:,}")


def _tensors(report: Report) -> str:
    kind = "layer of the adapter" if report.of_adapter else "fully connected layer"
    layers = count_of(len(report.layers), kind)
    return f"in {count_of(report.source.tensors, 'tensor')}, {layers}"


def _of_curve(report: Report) -> Iterator[Tile]:
    point, count = chosen(report), count_of(len(report.curve), "network")
    before, after, unit = sizes(report, point)
    yield Tile("dense", f"{before:,}", f"{unit}; {count} measured")
    if point is None:
        smallest = min(report.curve, key=lambda item: item.parameters)
        yield _cost(smallest.comparison)
        return
    detail = f"{after:,} {unit}, the smallest that costs little"
    yield Tile("chosen", percent_change(before, after), detail)
    yield _cost(point.comparison)
