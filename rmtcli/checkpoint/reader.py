"""Opening a checkpoint: which format a file has, and the errors before any format is known."""

from __future__ import annotations

import zipfile
from pathlib import Path

from rmtcli.checkpoint.base import Checkpoint, stamp_of
from rmtcli.checkpoint.remote import place, reaching
from rmtcli.errors import CheckpointError, UsageError

#: Format by file name ending.
CONTAINERS = {
    ".safetensors": "safetensors",
    ".pt": "torch",
    ".pth": "torch",
    ".bin": "torch",
    ".ckpt": "torch",
    ".pt2": "exported",
}


#: Characters in a tensor's name. What looks for words in it takes time that goes with their square.
LONGEST = 10_000
#: How a pointer begins that stands for a file in a repository cloned without its large files.
_POINTER = b"version https://git-lfs"


def container_of(path: Path) -> str:
    """``safetensors``, ``torch`` or ``exported``, by the file's ending.

    Raises:
        UsageError: any other ending.
    """
    try:
        return CONTAINERS[path.suffix.lower()]
    except KeyError:
        known = ", ".join(CONTAINERS)
        raise UsageError(
            f"{path}: not a checkpoint by its name: the ending must be one of {known}"
        ) from None


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
    path = place(path)
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


# Each format is imported where it is met: safetensors files need no torch.
def _safetensors(path: Path) -> Checkpoint:
    from rmtcli.checkpoint.safetensors import SafetensorsFile

    return SafetensorsFile(path)


def _exported(path: Path) -> Checkpoint:
    from rmtcli.checkpoint.exported import ExportedFile

    return ExportedFile(path)


def _torch(path: Path) -> Checkpoint:
    from rmtcli.checkpoint.archive import reading
    from rmtcli.checkpoint.torchscript import TorchScriptFile, is_torchscript

    try:
        with reading(path) as archive:
            script = is_torchscript(archive.namelist())
        if script:
            return TorchScriptFile(path)
    except zipfile.BadZipFile:
        pass  # an older torch file, or none: the next reader tells
    from rmtcli.checkpoint.plain_torch import PlainTorchFile, UnusualError

    try:
        return PlainTorchFile(path)
    except UnusualError:
        from rmtcli.checkpoint.torch_file import TorchFile

        return TorchFile(path)


_READERS = {"safetensors": _safetensors, "exported": _exported, "torch": _torch}


def _directory(path: Path) -> Checkpoint:
    from rmtcli.checkpoint.huggingface import HuggingFaceDirectory, is_directory_of_weights

    if (path / "model_index.json").exists():
        raise UsageError(f"{path}: a pipeline of several models: name the folder of one")
    if not is_directory_of_weights(path):
        raise UsageError(f"{path}: is a directory: name the checkpoint file in it")
    return HuggingFaceDirectory(path)
