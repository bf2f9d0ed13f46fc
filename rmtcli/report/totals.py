"""What a model costs before and after, stated in every way that is known."""

from __future__ import annotations

from rmtcli.report.base import Report


def totals(report: Report) -> list[tuple[str, int, int]]:
    """What is counted, before, after: of pruned layers, the whole model, its file, its work.

    Multiply-adds are those of all fully connected layers at one position; what was not written
    has no size on the disk and is left out.
    """
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
        label = "multiply-adds of the fully connected layers, a position"
        lines.append((label, *_macs(report)))
    return lines


def _macs(report: Report) -> tuple[int, int]:
    before = after = 0
    for plan in report.layers:
        before += plan.layer.size
        after += plan.size(report.layout)
    return before, after
