"""Checkpoint files: the only code that knows a weight format."""

from rmtcli.checkpoint.base import About, Checkpoint, Edited, Edits, Manifest, TensorInfo
from rmtcli.checkpoint.dtypes import RawTensor, decode, encode
from rmtcli.checkpoint.reader import CONTAINERS, container_of, open_checkpoint
from rmtcli.checkpoint.writer import check_target, format_of, write_checkpoint, write_file

__all__ = [
    "CONTAINERS",
    "About",
    "Checkpoint",
    "Edited",
    "Edits",
    "Manifest",
    "RawTensor",
    "TensorInfo",
    "check_target",
    "container_of",
    "decode",
    "encode",
    "format_of",
    "open_checkpoint",
    "write_checkpoint",
    "write_file",
]
