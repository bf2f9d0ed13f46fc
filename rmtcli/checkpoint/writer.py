"""Putting files down: whole or not at all, and never over something that matters."""

from __future__ import annotations

import os
import secrets
from collections.abc import Callable
from pathlib import Path
from typing import BinaryIO

from rmtcli.checkpoint.base import Checkpoint
from rmtcli.checkpoint.reader import container_of
from rmtcli.errors import UsageError


def check_target(target: Path, *, inputs: list[Path], force: bool) -> None:
    """Refuse a place that cannot be written, before any work is done.

    Raises:
        UsageError: it is an input (whatever ``force`` says), exists already, or has no folder.
    """
    if target.is_dir():
        raise UsageError(f"{target}: is a directory: name a file")
    if not target.parent.is_dir():
        raise UsageError(f"{target}: its folder does not exist: create it first")
    if not os.access(target.parent, os.W_OK):
        raise UsageError(f"{target}: its folder may not be written to")
    if not target.exists() and target.resolve() in {path.resolve() for path in inputs}:
        raise UsageError(f"{target}: is named for two things: give each a file of its own")
    if target.exists():
        if any(path.exists() and target.samefile(path) for path in inputs):
            raise UsageError(f"{target}: is an input, and inputs are never overwritten")
        if not force:
            raise UsageError(f"{target}: exists already: give --force to replace it")


def write_checkpoint(checkpoint: Checkpoint, target: Path) -> None:
    """Write ``checkpoint`` in the format that the target's ending names."""
    if container_of(target) == "safetensors":
        from rmtcli.checkpoint.safetensors import write_safetensors

        write_file(target, lambda file: write_safetensors(checkpoint, file))
    else:
        from rmtcli.checkpoint.torch_file import write_torch

        write_file(target, lambda file: write_torch(checkpoint, file))


def write_file(target: Path, write: Callable[[BinaryIO], object]) -> None:
    """Let ``write`` fill a temporary sibling, bring it to the disk, then rename it to ``target``.

    Whatever goes wrong, ``target`` is what it was and nothing is left beside it.
    """
    temporary = target.with_name(f".rmtcli-{secrets.token_hex(8)}.tmp")
    file = temporary.open("xb")
    try:
        with file:
            write(file)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(target)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
