"""Hashes that identify a file or a checkpoint."""

from __future__ import annotations

import hashlib
from pathlib import Path

from rmtcli.checkpoint.base import Checkpoint


def checkpoint_sha256(checkpoint: Checkpoint) -> str:
    """SHA-256 of a checkpoint's file, or of the names and hashes of a directory's files.

    Of tensors in memory, it is that of their names, types, shapes and bytes.
    """
    if not checkpoint.files:
        return _tensors_sha256(checkpoint)
    if checkpoint.files == (checkpoint.path,):
        return file_sha256(checkpoint.path)
    folder = checkpoint.path if checkpoint.path.is_dir() else checkpoint.path.parent
    names = sorted((str(path.relative_to(folder)), path) for path in checkpoint.files)
    lines = (f"{file_sha256(path)}  {name}\n" for name, path in names)
    return hashlib.sha256("".join(lines).encode()).hexdigest()


def _tensors_sha256(checkpoint: Checkpoint) -> str:
    whole = hashlib.sha256()
    for name, info in checkpoint.infos.items():
        whole.update(f"{name}\n{info.dtype} {info.shape}\n".encode())
        whole.update(checkpoint.raw(name).data.data)
    return whole.hexdigest()


def file_sha256(path: Path) -> str:
    """SHA-256 of a file."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
