"""What a model costs before and after, stated in every way that is known."""

from __future__ import annotations

from rmtcli.report.base import Report
from rmtcli.report.rows import change, milliseconds


def totals(report: Report) -> list[tuple[str, str, str, str]]:
    """What is counted, before, after, change: of pruned layers, the model, its file, its work.

    Multiply-adds are those of all fully connected layers at one position; what was not written
    has no size on the disk and is left out, as is time that was not measured.
    """
    return [
        *((label, f"{a:,}", f"{b:,}", change(a, b)) for label, a, b in _counted(report)),
        *(
            (label, milliseconds(a), milliseconds(b), change(a, b))
            for label, a, b in _timed(report)
        ),
    ]


def _counted(report: Report) -> list[tuple[str, int, int]]:
    if report.reference is not None:
        old, new = report.reference, report.source
        return [
            ("parameters of the whole model", old.parameters, new.parameters),
            ("bytes on disk", old.bytes, new.bytes),
        ]
    lines = []
    if report.pruned:
        lines.append(("parameters of the pruned layers", *report.pruned_parameters))
    if report.layers or report.output is not None:
        lines.append(("parameters of the whole model", *report.parameters))
    if report.output is not None:
        lines.append(("bytes on disk", report.source.bytes, report.output.bytes))
    if report.layers:
        before = sum(plan.layer.size for plan in report.layers)
        after = sum(plan.macs for plan in report.layers)
        lines.append(("multiply-adds of the fully connected layers, a position", before, after))
    return lines


def _timed(report: Report) -> list[tuple[str, float, float]]:
    lines = []
    for found in report.latency:
        at = f"at batch {found.batch}, {found.device}"
        if found.layers:
            lines.append((f"time of the linear layers {at}", *found.total))
        if found.network is not None:
            lines.append((f"time of the network {at}", *found.network))
    return lines
