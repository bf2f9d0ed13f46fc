"""Multiply factors back into dense weights."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from rmtcli.checkpoint import (
    DIRECTORY,
    Checkpoint,
    Edited,
    format_of,
    open_checkpoint,
    write_checkpoint,
)
from rmtcli.checkpoint.names import factors_of
from rmtcli.errors import LayerError, UsageError
from rmtcli.files import as_path, check_target
from rmtcli.layouts import ReadBack, join, split_modules
from rmtcli.pipeline.stages import Planned, describe, described, on_values
from rmtcli.report.base import Report
from rmtcli.report.card import read_card, without_section
from rmtcli.report.notes import on_extras

#: Norms of two factors that differ by this factor are not those of rmtcli's, trained or not.
UNBALANCED = 1.25


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
    notes = _recorded(checkpoint, record)
    card = without_section(read_card(checkpoint)) or None if directory else None
    dense = Edited(checkpoint, join(checkpoint), None)
    write_checkpoint(dense, target, card=card, force=force, verify=verify)
    return Report(
        "densify",
        describe(checkpoint),
        output=described(target, dense),
        readback=ReadBack(len(dense.infos), {}) if verify else None,
        notes=(
            *notes,
            *on_values(checkpoint, Planned((), ())),
            *on_extras(checkpoint, target),
        ),
    )


def _recorded(checkpoint: Checkpoint, record: str | Path | None) -> tuple[str, ...]:
    """Make sure that it is known which modules are factors; a note if only their names tell.

    Raises:
        UsageError: ``record`` holds no record, or is not needed.
        LayerError: without a record, modules that may be the network's own layers.
    """
    known = checkpoint.manifest is not None and bool(checkpoint.manifest.factored)
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
    _check_balance(checkpoint, modules)
    more = f" and {len(modules) - 3} more" if len(modules) > 3 else ""
    return (
        "the file was saved again without rmtcli's record, so the factors were told by their "
        f"names: {', '.join(modules[:3])}{more}",
    )


def _check_balance(checkpoint: Checkpoint, modules: Sequence[str]) -> None:
    """Refuse modules that look like factors by their names, and not by their norms.

    Factors are written with equal norms, and training keeps them so: LᵀL − RRᵀ does not change
    under gradient flow, and vanishes under weight decay (Arora et al., arXiv 1802.06509). Two
    layers that a network has of its own begin with other norms, unless its shapes balance them.

    Raises:
        LayerError: the norms of a module's tensors differ.
    """
    norms: dict[str, tuple[float, float]] = {}
    names: dict[str, str] = {}
    for module in modules:
        right, left, _ = factors_of(module)
        if left not in checkpoint.infos or right not in checkpoint.infos:
            continue  # of another layout
        first = checkpoint.aliases.get(right, right)  # of siblings, all left factors count
        a, b = (
            float(np.linalg.norm(checkpoint.array(name).astype("f8"))) for name in (left, right)
        )
        norms[first] = math.hypot(norms.get(first, (0.0, b))[0], a), b
        names.setdefault(first, module)
    for first, (a, b) in norms.items():
        ratio = max(a, b) / min(a, b) if min(a, b) else math.inf
        if ratio > UNBALANCED:
            raise LayerError(
                f"{checkpoint.path}: '{names[first]}' may be two layers of the network's own: the "
                f"norms of its weights differ {ratio:.3g} times, and rmtcli's factors are written "
                "with equal norms. If prune split it, give the file that prune wrote with --record"
            )
