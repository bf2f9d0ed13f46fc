"""Hashes that tell one file, checkpoint or layer from another."""

from __future__ import annotations

import hashlib
from pathlib import Path

from rmtcli.checkpoint import Checkpoint


def checkpoint_sha256(checkpoint: Checkpoint) -> str:
    """Hash of a checkpoint: of its file, or of the names and hashes of a directory's files."""
    if checkpoint.files == (checkpoint.path,):
        return file_sha256(checkpoint.path)
    names = sorted((str(path.relative_to(checkpoint.path)), path) for path in checkpoint.files)
    lines = (f"{file_sha256(path)}  {name}\n" for name, path in names)
    return hashlib.sha256("".join(lines).encode()).hexdigest()


def file_sha256(path: Path) -> str:
    """Hash of a file."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
