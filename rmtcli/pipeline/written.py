"""The output of ``prune``: written, read back, and for a directory an ONNX graph beside it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path

from rmtcli.checkpoint import DIRECTORY, Checkpoint, Format, format_of, staged
from rmtcli.evaluation import Harness
from rmtcli.layouts import ReadBack, stored_errors
from rmtcli.pipeline.prepared import Result
from rmtcli.pipeline.stages import described
from rmtcli.report.base import Report
from rmtcli.report.card import read_card, with_section
from rmtcli.report.notes import on_loading

#: What opens a graph beside the weights.
_ON_ONNX = (
    "onnx/model.onnx computes what torch computes: onnxruntime runs it, and "
    'SentenceTransformer(…, backend="onnx") opens it, without rmtcli'
)


def check_onnx(harness: Harness, written: Format) -> None:
    """Make sure that a graph can be written, before any work is done.

    Raises:
        UsageError: it cannot.
    """
    from rmtcli.running.onnx_file import check_exportable  # needs torch

    check_exportable(harness, directory=written is DIRECTORY)


def onnx_writer(
    harness: Harness, network: Checkpoint, *, wanted: bool
) -> Callable[[Path], None] | None:
    """A function that writes a network's graph into its directory; None where none is wanted."""
    if not wanted:
        return None
    from rmtcli.running.onnx_file import write_onnx  # needs torch

    return partial(write_onnx, harness, network)


def written_report(
    report: Report,
    result: Result,
    target: Path,
    *,
    also: Callable[[Path], object] | None,
    force: bool,
    verify: bool,
) -> Report:
    """Write the pruned checkpoint, and complete the report with what reading it back shows.

    Args:
        report: what was done.
        result: the pruned network.
        target: where it is written.
        also: writes a graph into its directory; None for no graph.
        force: whether an existing output may be replaced.
        verify: whether the output is read back.
    """
    checkpoint, card = result.network.source, None
    if format_of(checkpoint, target) is DIRECTORY:
        manifest = result.network.manifest
        loaded = any(plan.layout.splits for plan in report.pruned)
        loaded |= manifest is not None and bool(manifest.shapes)
        if loaded:
            report = replace(report, notes=(*report.notes, *on_loading(checkpoint)))
        card = with_section(read_card(checkpoint), report, loaded=loaded)
    if also is not None:
        report = replace(report, notes=(*report.notes, _ON_ONNX))
    readback = None
    options = {"force": force, "verify": verify}
    with staged(result.network, target, card=card, also=also, **options) as written:
        if written is not None:
            optimal = report.calibrated is None and report.bits is None
            pruned = (plan for plan in report.pruned if plan.narrowed is None)
            layers = [(plan.layer, plan.layout, plan.relative_error) for plan in pruned]
            errors = stored_errors(layers, written, target, optimal=optimal)
            readback = ReadBack(len(result.network.infos), errors)
    return replace(report, output=described(target, result.network), readback=readback)
