"""Multiply factors back into dense weights."""

from __future__ import annotations

from pathlib import Path

from rmtcli.checkpoint import (
    DIRECTORY,
    Checkpoint,
    Edited,
    format_of,
    open_checkpoint,
    write_checkpoint,
)
from rmtcli.errors import LayerError, UsageError
from rmtcli.files import as_path, check_target
from rmtcli.layouts import ReadBack, join, split_modules, widened
from rmtcli.pipeline.factors import UNBALANCED, balances, recorded
from rmtcli.pipeline.stages import Planned, describe, described, on_tensors
from rmtcli.report.base import Report
from rmtcli.report.card import read_card, without_section
from rmtcli.report.notes import on_extras


def densify(
    path: str | Path,
    output: str | Path,
    *,
    key: str | None = None,
    record: str | Path | None = None,
    force: bool = False,
    verify: bool = True,
) -> Report:
    """Multiply the factors of a file that rmtcli wrote back into dense weights.

    The file may have been trained and saved again without rmtcli's record. The record is then
    taken from ``record`` or from a directory's configuration; or the factors are told by their
    names and norms, and a note says so.

    Hidden layers of a directory that have widths of their own get units without effect up to the
    width in its ``config.json``, so that it opens without rmtcli.

    Args:
        path: a factored checkpoint, a file or a Hugging Face directory.
        key: which state dict, where a torch file holds several, such as ``ema`` or
            ``state.generator``.
        output: file or directory to write.
        record: the file or directory that ``prune`` wrote, for a file that lost its record.
        force: whether an existing output may be replaced.
        verify: whether the output is read back and compared before it appears under its name.

    Raises:
        UsageError: a wrong path, or ``record`` holds no record, or is not needed.
        CheckpointError: the file cannot be read, or the output differs from what was intended.
        LayerError: it holds no factors, or not those that its record names; or, without a record,
            layers that may be the network's own.
    """
    target = as_path(output)
    checkpoint = open_checkpoint(path, key=key)
    directory = format_of(checkpoint, target) is DIRECTORY
    inputs = [as_path(file) for file in (path, record) if file is not None]
    check_target(target, inputs=inputs, force=force, directory=directory)
    notes = _settle_record(checkpoint, record)
    card = without_section(read_card(checkpoint)) or None if directory else None
    _refuse_narrow(checkpoint)
    manifest = checkpoint.manifest
    wide = manifest is not None and bool(manifest.shapes)
    packed = any(map(checkpoint.packed, checkpoint.infos))
    # Without a record, tensors in few bits are written as what they stand for.
    edits = join(checkpoint) if split_modules(checkpoint) or not (packed or wide) else {}
    dense = Edited(checkpoint, edits, None)
    if manifest is not None and directory:
        shapes = {name: manifest.narrowed[name] for name in manifest.shapes}
        dense = widened(dense, shapes, checkpoint.about.transposed)
    write_checkpoint(dense, target, card=card, force=force, verify=verify)
    return Report(
        "densify",
        describe(checkpoint),
        output=described(target, dense),
        readback=ReadBack(len(dense.infos), {}) if verify else None,
        notes=(
            *notes,
            *on_tensors(checkpoint, Planned((), ())),
            *on_extras(checkpoint, target),
        ),
    )


def _refuse_narrow(checkpoint: Checkpoint) -> None:
    """Say of a network that is only narrower, and needs no loader, that it is dense already.

    Raises:
        LayerError: it has narrower hidden layers, and no factors.
    """
    record = checkpoint.manifest
    narrowed = record is not None and record.narrowed and not record.shapes
    packed = any(map(checkpoint.packed, checkpoint.infos))
    if narrowed and not packed and not split_modules(checkpoint):
        raise LayerError(
            f"{checkpoint.path}: its hidden layers were made narrower, and its layers are dense: "
            "there is nothing to undo"
        )


def _settle_record(checkpoint: Checkpoint, record: str | Path | None) -> tuple[str, ...]:
    """Make sure that it is known which modules are factors; a note if only their names tell.

    Raises:
        UsageError: ``record`` holds no record, or is not needed.
        LayerError: without a record, modules that may be the network's own layers.
    """
    known = recorded(checkpoint)
    if record is not None:
        if known:
            raise UsageError(f"{checkpoint.path}: has a record of its factors: leave out --record")
        manifest = open_checkpoint(record).manifest
        if manifest is None or not manifest.factored:
            raise UsageError(
                f"{record}: holds no record of factors: name the file that prune wrote"
            )
        checkpoint.adopt(manifest)
        return ()
    modules = () if known else split_modules(checkpoint)
    if not modules:
        return ()
    for module, ratio in balances(checkpoint, modules).items():
        if ratio > UNBALANCED:
            raise LayerError(
                f"{checkpoint.path}: '{module}' may be two layers of the network's own: the norms "
                f"of its weights differ {ratio:.3g} times, and rmtcli's factors are written with "
                "equal norms. If prune split it, give the file that prune wrote with --record"
            )
    more = f" and {len(modules) - 3} more" if len(modules) > 3 else ""
    return (
        "the file was saved again without rmtcli's record, so the factors were told by their "
        f"names: {', '.join(modules[:3])}{more}",
    )
