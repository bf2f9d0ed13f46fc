"""Checkpoints, files and directories of named tensors: the only code that knows a weight format.

Tensors travel as bytes (:class:`RawTensor`): a tensor that is not pruned is copied, never
converted, whatever its type. A format is one value in one table
(:mod:`~rmtcli.checkpoint.formats`), which names its reader and its writer; they are imported when a
file of the format is met, so that safetensors files need no torch. A checkpoint with changes laid
over it is a checkpoint as well (:class:`Edited`): evaluation measures what a writer would write.
"""

from rmtcli.checkpoint.base import IN_MEMORY, About, Checkpoint, FileCheckpoint, TensorInfo
from rmtcli.checkpoint.dtypes import RawTensor, decode, encode
from rmtcli.checkpoint.edited import Edited, Edits
from rmtcli.checkpoint.formats import (
    DIRECTORY,
    Format,
    endings,
    find_format,
    format_by_ending,
)
from rmtcli.checkpoint.manifest import Manifest
from rmtcli.checkpoint.reader import Openable, open_checkpoint, open_written
from rmtcli.checkpoint.writer import format_of, staged, write_checkpoint

__all__ = [
    "DIRECTORY",
    "IN_MEMORY",
    "About",
    "Checkpoint",
    "Edited",
    "Edits",
    "FileCheckpoint",
    "Format",
    "Manifest",
    "Openable",
    "RawTensor",
    "TensorInfo",
    "decode",
    "encode",
    "endings",
    "find_format",
    "format_by_ending",
    "format_of",
    "open_checkpoint",
    "open_written",
    "staged",
    "write_checkpoint",
]
