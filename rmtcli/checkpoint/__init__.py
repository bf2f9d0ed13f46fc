"""Checkpoint files: the only code that knows a weight format."""

from rmtcli.checkpoint.base import Checkpoint, Edited, Manifest, TensorInfo
from rmtcli.checkpoint.dtypes import RawTensor, decode, encode
from rmtcli.checkpoint.reader import CONTAINERS, container_of, open_checkpoint
from rmtcli.checkpoint.writer import check_target, write_checkpoint, write_file

__all__ = [
    "CONTAINERS",
    "Checkpoint",
    "Edited",
    "Manifest",
    "RawTensor",
    "TensorInfo",
    "check_target",
    "container_of",
    "decode",
    "encode",
    "open_checkpoint",
    "write_checkpoint",
    "write_file",
]
