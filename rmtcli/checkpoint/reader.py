"""Opening a checkpoint: which format a file has, and the errors before any format is known."""

from __future__ import annotations

from pathlib import Path

from rmtcli.checkpoint.base import Checkpoint
from rmtcli.errors import CheckpointError, UsageError

#: Format by file name ending.
CONTAINERS = {
    ".safetensors": "safetensors",
    ".pt": "torch",
    ".pth": "torch",
    ".bin": "torch",
    ".ckpt": "torch",
}


def container_of(path: Path) -> str:
    """``safetensors`` or ``torch``, by the file's ending.

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


def open_checkpoint(path: str | Path) -> Checkpoint:
    """Open a checkpoint for reading. Nothing in it is ever executed.

    Raises:
        UsageError: no such file, a directory, or an unknown ending.
        CheckpointError: the file is empty, damaged, or holds more than tensors and plain values.
    """
    path = Path(path)
    if path.is_dir():
        raise UsageError(f"{path}: is a directory: name the checkpoint file in it")
    if not path.exists():
        raise UsageError(f"{path}: no such file")
    container = container_of(path)
    if path.stat().st_size == 0:
        raise CheckpointError(f"{path}: the file is empty")
    # Each format is imported where it is met: safetensors files need no torch.
    if container == "safetensors":
        from rmtcli.checkpoint.safetensors import SafetensorsFile

        return SafetensorsFile(path)
    from rmtcli.checkpoint.torch_file import TorchFile

    return TorchFile(path)
