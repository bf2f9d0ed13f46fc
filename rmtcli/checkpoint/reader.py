"""Opening a checkpoint, a file or a directory."""

from __future__ import annotations

from pathlib import Path

from rmtcli.checkpoint.base import Checkpoint, one_network
from rmtcli.checkpoint.formats import DIRECTORY, Format, find_format, open_file
from rmtcli.files import as_path, reaching


def open_checkpoint(
    path: str | Path, *, key: str | None = None, file_format: Format | None = None
) -> Checkpoint:
    """Open a checkpoint file, or a Hugging Face directory. Nothing in it is ever executed.

    A remote checkpoint is read where it is; of a safetensors file, only the tensors that are used.

    Args:
        path: the file, directory or URL.
        key: which state dict, where a torch file holds several: the keys that lead to it, joined by
            dots, such as ``ema`` or ``state.generator``.
        file_format: the format of a file whose ending does not name it.

    Raises:
        UsageError: no such file, a directory of another kind, or an unknown ending; no state dict
            is under ``key``, or there are several and none is named.
        CheckpointError: the file is empty, damaged, or holds more than tensors and plain values.
    """
    path = as_path(path)
    with reaching(path):
        if path.is_dir():
            if key is not None:
                raise one_network(path, "directory")
            return DIRECTORY.open(path)
        return open_file(path, file_format, key)


def open_written(
    checkpoint: Checkpoint, target: Path, *, file_format: Format | None = None
) -> Checkpoint:
    """Open what was written of a checkpoint: the same state dict, where the file holds several.

    Args:
        checkpoint: what was written.
        target: the file or directory.
        file_format: the format of a file whose ending does not name it.

    Raises:
        UsageError: there is no such file any more.
        CheckpointError: the file is damaged.
    """
    written_in = file_format or find_format(target)
    keeps_others = written_in is not None and written_in.keeps_extras
    key = checkpoint.key if keeps_others else None
    return open_checkpoint(target, key=key, file_format=file_format)
