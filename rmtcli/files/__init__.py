"""Paths and URLs, and atomic writes to them. Nothing here knows how a checkpoint is stored.

A file or directory appears under its name only when it is complete (:mod:`~rmtcli.files.atomic`,
:mod:`~rmtcli.files.upload`). Where nothing may be replaced, a finished file gets its name by a hard
link: a rename would silently replace the output of another run. Outputs that must not be written
are refused before any work is done (:mod:`~rmtcli.files.target`). Local paths and URLs are handled
by the same code (:mod:`~rmtcli.files.path`).
"""

from rmtcli.files.atomic import write_file, write_text
from rmtcli.files.npy import ONE_READER
from rmtcli.files.path import as_path, is_path, is_remote, reaching
from rmtcli.files.target import CONFIG, check_target

__all__ = [
    "CONFIG",
    "ONE_READER",
    "as_path",
    "check_target",
    "is_path",
    "is_remote",
    "reaching",
    "write_file",
    "write_text",
]
