"""Comparing a written checkpoint with the one that was to be written."""

from __future__ import annotations

from pathlib import Path

from rmtcli.checkpoint.base import Checkpoint
from rmtcli.errors import CheckpointError


def check_written(written: Checkpoint, intended: Checkpoint, target: Path) -> None:
    """Compare names, shapes, types and bytes of all tensors, and rmtcli's record.

    A disk or a network drive may report success and lose data, and a writer may have a bug. Whoever
    deletes the dense network afterwards would learn it too late.

    Args:
        written: the output, opened from the disk.
        intended: the checkpoint that it was written from.
        target: the output's final name, for messages.

    Raises:
        CheckpointError: they differ.
    """
    missing = intended.infos.keys() - written.infos
    extra = written.infos.keys() - intended.infos
    if missing or extra:
        problem = "missing" if missing else "left over"
        raise differs(target, f"'{min(missing or extra)}' is {problem}")
    for name, info in intended.infos.items():
        stored = written.infos[name]
        if stored != info:
            raise differs(
                target,
                f"'{name}' is {stored.dtype} of shape {stored.shape}, "
                f"and should be {info.dtype} of shape {info.shape}",
            )
        # Memory views compare in place; arrays would need a third array, of booleans.
        if written.raw(name).data.data != intended.raw(name).data.data:
            raise differs(target, f"'{name}' has other values")
    if written.manifest != intended.manifest:
        raise differs(target, "rmtcli's record of the pruning is different")


def differs(target: Path, difference: str) -> CheckpointError:
    """The error of an output that differs from the checkpoint it was written from."""
    return CheckpointError(
        f"{target}: read back after writing, {difference}: the output was deleted. Check the disk"
    )
