"""Checkpoint files and directories: the only code that knows a weight format."""

from rmtcli.checkpoint.base import About, Checkpoint, Edited, Edits, Manifest, TensorInfo
from rmtcli.checkpoint.dtypes import RawTensor, decode, encode
from rmtcli.checkpoint.formats import CONTAINERS, container_of
from rmtcli.checkpoint.reader import open_checkpoint
from rmtcli.checkpoint.writer import format_of, staged, write_checkpoint

__all__ = [
    "CONTAINERS",
    "About",
    "Checkpoint",
    "Edited",
    "Edits",
    "Manifest",
    "RawTensor",
    "TensorInfo",
    "container_of",
    "decode",
    "encode",
    "format_of",
    "open_checkpoint",
    "staged",
    "write_checkpoint",
]
