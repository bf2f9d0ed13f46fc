"""Paths and URLs: where something is read from, and how it is written whole or not at all.

Nothing here knows what a checkpoint is. A file appears under its name only when it is complete
(:mod:`~rmtcli.files.atomic`); paths that must not be written to are refused before any work is
done (:mod:`~rmtcli.files.target`). Paths on this machine and URLs are handled by the same code
(:mod:`~rmtcli.files.path`).
"""

from rmtcli.files.atomic import write_file
from rmtcli.files.path import as_path, is_remote, reaching
from rmtcli.files.target import check_target

__all__ = [
    "as_path",
    "check_target",
    "is_remote",
    "reaching",
    "write_file",
]
