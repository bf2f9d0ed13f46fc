"""Opening ONNX files where the onnx package is installed."""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING

from rmtcli.errors import UsageError

if TYPE_CHECKING:
    from rmtcli.checkpoint.onnx.file import OnnxFile


def open_onnx(path: Path) -> OnnxFile:
    """Open an ONNX file.

    Raises:
        UsageError: the onnx package is not installed.
        CheckpointError: the file is damaged, or its external data are not beside it.
    """
    if find_spec("onnx") is None:
        raise UsageError(f"{path}: ONNX files need onnx: pip install onnx")
    from rmtcli.checkpoint.onnx.file import OnnxFile

    return OnnxFile(path)
