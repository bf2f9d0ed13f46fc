"""Opening a checkpoint: which format a file has, and the errors before any format is known."""

from __future__ import annotations

from pathlib import Path

from rmtcli.checkpoint.base import Checkpoint, stamp_of
from rmtcli.checkpoint.formats import _READERS, container_of
from rmtcli.errors import CheckpointError, UsageError
from rmtcli.files import as_path, reaching

#: Characters in a tensor's name. What looks for words in it takes time that goes with their square.
LONGEST = 10_000
#: How a pointer begins that stands for a file in a repository cloned without its large files.
_POINTER = b"version https://git-lfs"


def open_checkpoint(path: str | Path, *, container: str | None = None) -> Checkpoint:
    """Open a checkpoint file, or a Hugging Face directory. Nothing in it is ever executed.

    A URL is opened where it is: of safetensors, only the tensors that are asked for are read.

    Args:
        path: the file, directory or URL.
        container: its format, where its name does not end in it.

    Raises:
        UsageError: no such file, a directory of another kind, or an unknown ending.
        CheckpointError: the file is empty, damaged, or holds more than tensors and plain values.
    """
    path = as_path(path)
    with reaching(path):
        return _open(path, container)


def _open(path: Path, container: str | None) -> Checkpoint:
    if path.is_dir():
        return _directory(path)
    if not path.exists():
        raise UsageError(f"{path}: no such file")
    if not path.is_file():
        raise UsageError(f"{path}: a pipe or a device, and no file")
    container = container or container_of(path)
    if path.stat().st_size == 0:
        raise CheckpointError(f"{path}: the file is empty")
    with path.open("rb") as file:
        if file.read(len(_POINTER)) == _POINTER:
            raise CheckpointError(f"{path}: a Git LFS pointer: fetch the file with 'git lfs pull'")
    stamp = stamp_of(path)
    checkpoint = _READERS[container](path)
    checkpoint.stamps = {path: stamp}
    longest = max(map(len, checkpoint.infos), default=0)
    if longest > LONGEST:
        raise CheckpointError(
            f"{path}: a tensor's name has {longest:,} characters: at most {LONGEST:,} are read"
        )
    return checkpoint


def _directory(path: Path) -> Checkpoint:
    from rmtcli.checkpoint.huggingface.read import HuggingFaceDirectory, is_directory_of_weights

    if (path / "model_index.json").exists():
        raise UsageError(f"{path}: a pipeline of several models: name the folder of one")
    if not is_directory_of_weights(path):
        raise UsageError(f"{path}: is a directory: name the checkpoint file in it")
    return HuggingFaceDirectory(path)
