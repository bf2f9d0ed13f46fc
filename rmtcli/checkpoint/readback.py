"""What was written, read back and compared with what was meant."""

from __future__ import annotations

from pathlib import Path

from rmtcli.checkpoint.base import Checkpoint
from rmtcli.errors import CheckpointError


def check_written(written: Checkpoint, meant: Checkpoint, target: Path) -> None:
    """Compare names, shapes, types and bytes of all tensors, and rmtcli's record.

    A disk or a network drive may lie about what it took, and a writer may be wrong; whoever removes
    the dense network afterwards would learn it too late.

    Args:
        written: the output, opened anew.
        meant: what it was made from.
        target: the name that the output is to have.

    Raises:
        CheckpointError: they differ.
    """
    missing, extra = meant.infos.keys() - written.infos, written.infos.keys() - meant.infos
    if missing or extra:
        what = "missing" if missing else "left over"
        raise differs(target, f"'{min(missing or extra)}' is {what}")
    for name, info in meant.infos.items():
        found = written.infos[name]
        if found != info:
            raise differs(
                target,
                f"'{name}' is {found.dtype} of shape {found.shape}, "
                f"and should be {info.dtype} of shape {info.shape}",
            )
        # Views of memory are compared in place; arrays would make a third one of truth values.
        if written.raw(name).data.data != meant.raw(name).data.data:
            raise differs(target, f"'{name}' has other values")
    if written.manifest != meant.manifest:
        raise differs(target, "rmtcli's record of what was done is another")


def differs(target: Path, what: str) -> CheckpointError:
    """The error of an output that is not what was meant."""
    return CheckpointError(
        f"{target}: read back after writing, {what}: it was not kept. Is the disk sound?"
    )
