"""Opening a torch file: the readers that can, from the one that knows least to torch's own."""

from __future__ import annotations

import zipfile
from pathlib import Path

from rmtcli.checkpoint.base import FileCheckpoint, one_network
from rmtcli.checkpoint.torch.archive import reading
from rmtcli.checkpoint.torch.plain import PlainTorchFile, UnusualError
from rmtcli.checkpoint.torch.script import TorchScriptFile, is_torchscript


def open_torch(path: Path, key: str | None = None) -> FileCheckpoint:
    """Open a file by ``torch.save`` or ``torch.jit.save``; torch is imported if it has to be.

    Args:
        path: the file.
        key: which state dict, where the file holds several.

    Raises:
        UsageError: no state dict is under ``key``, or there are several and none is named.
        CheckpointError: the file is damaged, or holds more than tensors and plain values.
    """
    try:
        with reading(path) as archive:
            is_script = is_torchscript(archive.namelist())
        if is_script:
            if key is not None:
                raise one_network(path, TorchScriptFile.form)
            return TorchScriptFile(path)
    except zipfile.BadZipFile:
        pass  # torch's older format, or a damaged file: torch's own reader tells
    try:
        return PlainTorchFile(path, key)
    except UnusualError:
        from rmtcli.checkpoint.torch.file import TorchFile

        return TorchFile(path, key)
