"""Opening a torch file: the readers that can, from the one that knows least to torch's own."""

from __future__ import annotations

import zipfile
from pathlib import Path

from rmtcli.checkpoint.base import FileCheckpoint
from rmtcli.checkpoint.torch.archive import reading
from rmtcli.checkpoint.torch.plain import PlainTorchFile, UnusualError
from rmtcli.checkpoint.torch.script import TorchScriptFile, is_torchscript


def open_torch(path: Path) -> FileCheckpoint:
    """Open a file by ``torch.save`` or ``torch.jit.save``; torch is imported if it has to be.

    Raises:
        CheckpointError: the file is damaged, or holds more than tensors and plain values.
    """
    try:
        with reading(path) as archive:
            is_script = is_torchscript(archive.namelist())
        if is_script:
            return TorchScriptFile(path)
    except zipfile.BadZipFile:
        pass  # torch's older format, or a damaged file: torch's own reader tells
    try:
        return PlainTorchFile(path)
    except UnusualError:
        from rmtcli.checkpoint.torch.file import TorchFile

        return TorchFile(path)
