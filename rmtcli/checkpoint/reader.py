"""Opening a checkpoint, a file or a directory."""

from __future__ import annotations

from pathlib import Path

from rmtcli.checkpoint.base import Checkpoint
from rmtcli.checkpoint.formats import DIRECTORY, Format, open_file
from rmtcli.files import as_path, reaching


def open_checkpoint(path: str | Path, *, file_format: Format | None = None) -> Checkpoint:
    """Open a checkpoint file, or a Hugging Face directory. Nothing in it is ever executed.

    A remote checkpoint is read where it is; of a safetensors file, only the tensors that are used.

    Args:
        path: the file, directory or URL.
        file_format: the format of a file whose ending does not name it.

    Raises:
        UsageError: no such file, a directory of another kind, or an unknown ending.
        CheckpointError: the file is empty, damaged, or holds more than tensors and plain values.
    """
    path = as_path(path)
    with reaching(path):
        return DIRECTORY.open(path) if path.is_dir() else open_file(path, file_format)
