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
from rmtcli.files import as_path, check_target
from rmtcli.layouts import ReadBack, join, split_modules
from rmtcli.pipeline.stages import Planned, describe, described, on_values
from rmtcli.report.base import Report
from rmtcli.report.card import read_card, without_section
from rmtcli.report.notes import on_extras


def densify(
    path: str | Path,
    output: str | Path,
    *,
    key: str | None = None,
    force: bool = False,
    verify: bool = True,
) -> Report:
    """Multiply the factors of a file that rmtcli wrote back into dense weights.

    The file may have been trained and saved again: the record of its factors is then taken from a
    directory's configuration, or the factors are told by their names, and a note says so.

    Args:
        path: a factored checkpoint, a file or a Hugging Face directory.
        key: which state dict, where a torch file holds several, such as ``ema`` or
            ``state.generator``.
        output: file or directory to write.
        force: whether an existing output may be replaced.
        verify: whether the output is read back and compared before it appears under its name.

    Raises:
        UsageError: a wrong path.
        CheckpointError: the file cannot be read, or the output differs from what was intended.
        LayerError: it holds no factors, or not those that its manifest names.
    """
    target = as_path(output)
    checkpoint = open_checkpoint(path, key=key)
    directory = format_of(checkpoint, target) is DIRECTORY
    check_target(target, inputs=[as_path(path)], force=force, directory=directory)
    card = without_section(read_card(checkpoint)) or None if directory else None
    dense = Edited(checkpoint, join(checkpoint), None)
    write_checkpoint(dense, target, card=card, force=force, verify=verify)
    return Report(
        "densify",
        describe(checkpoint),
        output=described(target, dense),
        readback=ReadBack(len(dense.infos), {}) if verify else None,
        notes=(
            *_on_record(checkpoint),
            *on_values(checkpoint, Planned((), ())),
            *on_extras(checkpoint, target),
        ),
    )


def _on_record(checkpoint: Checkpoint) -> tuple[str, ...]:
    """A note on modules that were told by their tensors' names, because there is no manifest."""
    if checkpoint.manifest is not None and checkpoint.manifest.factored:
        return ()
    modules = split_modules(checkpoint)
    more = f" and {len(modules) - 3} more" if len(modules) > 3 else ""
    return (
        "the file was saved again without rmtcli's record, so the factors were told by their "
        f"names: {', '.join(modules[:3])}{more}",
    )
