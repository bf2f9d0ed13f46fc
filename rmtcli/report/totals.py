"""The cost of a model before and after, by every measure that is known."""

from __future__ import annotations

from rmtcli.planning import Timing
from rmtcli.report.base import Report, Source
from rmtcli.report.formatting import percent_change, time_change, timing


def totals(report: Report) -> list[tuple[str, str, str, str]]:
    """Measure, before, after and change: of the pruned layers, the model, its file and its work.

    Multiply-adds are those of all fully connected layers at one position. Size on disk is left out
    if nothing was written, and time if it was not measured.
    """
    return [
        *((label, f"{a:,}", f"{b:,}", percent_change(a, b)) for label, a, b in _counted(report)),
        *((label, timing(a), timing(b), time_change(a, b)) for label, a, b in _timed(report)),
    ]


def bytes_of(old: Source, new: Source) -> list[tuple[str, int, int]]:
    """The bytes of two files; where they hold more than a network, also what belongs to which."""
    lines = [("bytes on disk", old.bytes, new.bytes)]
    if old.other_bytes or new.other_bytes:
        own = (old.bytes - old.other_bytes, new.bytes - new.other_bytes)
        lines.append(("bytes of the network", *own))
        lines.append(("bytes of other objects", old.other_bytes, new.other_bytes))
    return lines


def _counted(report: Report) -> list[tuple[str, int, int]]:
    if report.extracted is not None:
        lines = [
            ("parameters of the adapted layers and of their factors", *report.pruned_parameters)
        ]
        return lines + ([] if report.output is None else bytes_of(report.source, report.output))
    if report.reference is not None:
        old, new = report.reference, report.source
        return [
            ("parameters of the whole model", old.parameters, new.parameters),
            *bytes_of(old, new),
        ]
    lines = []
    if report.pruned:
        lines.append(("parameters of the pruned layers", *report.pruned_parameters))
    if report.layers or report.output is not None:
        lines.append(("parameters of the whole model", *report.parameters))
    if report.output is not None:
        lines += bytes_of(report.source, report.output)
    if report.layers:
        before = sum(plan.layer.size for plan in report.layers)
        after = sum(plan.macs for plan in report.layers)
        lines.append(("multiply-adds per position of the fully connected layers", before, after))
    return lines


def _timed(report: Report) -> list[tuple[str, Timing, Timing]]:
    lines = []
    for latency in report.latency:
        at = f"at batch {latency.batch}, {latency.device}"
        if latency.layers:
            lines.append((f"time of the linear layers {at}", *latency.total))
        if latency.network is not None:
            lines.append((f"time of the network {at}", *latency.network))
    return lines
