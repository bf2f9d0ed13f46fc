"""Checkpoint formats by file name ending, and the reader of each."""

from __future__ import annotations

import zipfile
from pathlib import Path

from rmtcli.checkpoint.base import Checkpoint
from rmtcli.errors import UsageError

#: Format by file name ending.
CONTAINERS = {
    ".safetensors": "safetensors",
    ".pt": "torch",
    ".pth": "torch",
    ".bin": "torch",
    ".ckpt": "torch",
    ".pt2": "exported",
}


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


# Each format is imported where it is met: safetensors files need no torch.
def _safetensors(path: Path) -> Checkpoint:
    from rmtcli.checkpoint.safetensors import SafetensorsFile

    return SafetensorsFile(path)


def _exported(path: Path) -> Checkpoint:
    from rmtcli.checkpoint.torch.exported import ExportedFile

    return ExportedFile(path)


def _torch(path: Path) -> Checkpoint:
    from rmtcli.checkpoint.torch.archive import reading
    from rmtcli.checkpoint.torch.script import TorchScriptFile, is_torchscript

    try:
        with reading(path) as archive:
            script = is_torchscript(archive.namelist())
        if script:
            return TorchScriptFile(path)
    except zipfile.BadZipFile:
        pass  # an older torch file, or none: the next reader tells
    from rmtcli.checkpoint.torch.plain import PlainTorchFile, UnusualError

    try:
        return PlainTorchFile(path)
    except UnusualError:
        from rmtcli.checkpoint.torch.file import TorchFile

        return TorchFile(path)


_READERS = {"safetensors": _safetensors, "exported": _exported, "torch": _torch}
