"""Recognising a file by its first bytes: checkpoints under any name, and files that are none."""

from __future__ import annotations

import zipfile
from pathlib import Path

#: How many of a file's first bytes are looked at.
HEAD = 512
#: First bytes of a zip archive, and of a pickle of protocol 2 or newer.
_ZIP = b"PK\x03\x04"
_PICKLES = tuple(b"\x80" + bytes([protocol]) for protocol in range(2, 6))
#: An entry of programs that torch before 2.9 exported.
_OLD_PROGRAM = "serialized_state_dict.pt"
#: The longest header of a safetensors file that the library reads.
_LONGEST_HEADER = 100_000_000

#: Tags of the fields that follow the version in an ONNX file: its maker, its graph, its operators.
_ONNX_FIELDS = frozenset((0x12, 0x1A, 0x22, 0x28, 0x32, 0x3A, 0x42, 0x72))

_DOWNLOAD = "which a failed download leaves: download the file itself"
#: What files of other kinds begin with, what they are, and what to do.
_OTHERS = (
    (b"version https://git-lfs", "a Git LFS pointer: fetch the file with 'git lfs pull'"),
    (b"<!doctype", f"a page of HTML, {_DOWNLOAD}"),
    (b"<html", f"a page of HTML, {_DOWNLOAD}"),
    (b"<?xml", f"a page of XML, {_DOWNLOAD}"),
    (b"{", "text in JSON, not weights: name the file of the weights, or its folder"),
    (b"\x1f\x8b", "compressed by gzip: unpack it with 'gunzip'"),
    (b"bzh", "compressed by bzip2: unpack it with 'bunzip2'"),
    (b"\xfd7zxz", "compressed by xz: unpack it with 'unxz'"),
    (b"\x28\xb5\x2f\xfd", "compressed by zstd: unpack it with 'unzstd'"),
    (b"7z\xbc\xaf", "a 7-Zip archive: unpack it, and name the file in it"),
    (b"\x93numpy", "a NumPy array: save it under a name with safetensors.numpy.save_file"),
    (b"\x89hdf", "an HDF5 file, for example from Keras: save its weights as safetensors"),
)
_TAR = "a tar archive: unpack it with 'tar xf', and name the file in it"
_ARRAYS = "a NumPy archive: save its arrays with safetensors.numpy.save_file"
_ARCHIVE = "a zip archive that torch did not write: unpack it, and name the file in it"


def is_safetensors(path: Path, head: bytes) -> bool:
    """Whether a file begins with a length and a header in JSON."""
    return head[8:9] == b"{" and 2 <= int.from_bytes(head[:8], "little") <= _LONGEST_HEADER


def is_exported(path: Path, head: bytes) -> bool:
    """Whether a file is an archive with the weights of an exported program."""
    entries = _entries(path, head)
    return _OLD_PROGRAM in entries or any(entry.startswith("data/weights/") for entry in entries)


def is_torch(path: Path, head: bytes) -> bool:
    """Whether a file is an archive by ``torch.save`` or ``torch.jit.save``, or a pickle."""
    saved = "data.pkl" in _entries(path, head) and not is_exported(path, head)
    return saved or head.startswith(_PICKLES)


def is_onnx(path: Path, head: bytes) -> bool:
    """Whether a file begins with a version of ONNX, and another field of its files."""
    return len(head) > 2 and head[0] == 8 and 0 < head[1] < 64 and head[2] in _ONNX_FIELDS


def is_gguf(path: Path, head: bytes) -> bool:
    """Whether a file begins as GGUF files do."""
    return head.startswith(b"GGUF")


def other_kind(path: Path, head: bytes) -> str | None:
    """What a file that is no checkpoint is, and what to do with it; None if that is unknown."""
    start = head.lstrip().lower() if head[:1].isspace() else head.lower()
    for begin, words in _OTHERS:
        if start.startswith(begin):
            return words
    if head[257:262] == b"ustar":
        return _TAR
    entries = _entries(path, head)
    if any(entry.endswith(".npy") for entry in entries):
        return _ARRAYS
    return _ARCHIVE if entries else None


def _entries(path: Path, head: bytes) -> set[str]:
    """Names of an archive's entries, without its root folder; none for any other file."""
    if not head.startswith(_ZIP):
        return set()
    from rmtcli.checkpoint.torch.archive import reading

    try:
        with reading(path) as archive:
            return {name.partition("/")[2] or name for name in archive.namelist()}
    except zipfile.BadZipFile:
        return set()
