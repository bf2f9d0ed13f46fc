from __future__ import annotations

import os
from pathlib import Path
from typing import BinaryIO

import pytest

from rmtcli.checkpoint import check_target, write_file
from rmtcli.errors import UsageError
from tests.conftest import tree


def test_a_file_appears_whole_or_not_at_all(tmp_path: Path) -> None:
    target = tmp_path / "out"
    target.write_bytes(b"old")

    def fail(file: BinaryIO) -> None:
        file.write(b"half")
        raise OSError(28, "No space left on device")

    with pytest.raises(OSError, match="No space"):
        write_file(target, fail)
    assert tree(tmp_path) == {"out": b"old"}
    write_file(target, lambda file: file.write(b"new"))
    assert tree(tmp_path) == {"out": b"new"}


def test_an_interrupt_leaves_nothing(tmp_path: Path) -> None:
    def interrupt(file: BinaryIO) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write_file(tmp_path / "out", interrupt)
    assert tree(tmp_path) == {}


def test_new_files_follow_the_umask(tmp_path: Path) -> None:
    old = os.umask(0o027)
    try:
        write_file(tmp_path / "out", lambda file: file.write(b"x"))
    finally:
        os.umask(old)
    assert (tmp_path / "out").stat().st_mode & 0o777 == 0o640


def test_inputs_are_never_a_target_by_whatever_name(tmp_path: Path) -> None:
    source = tmp_path / "a.pt"
    source.write_bytes(b"x")
    os.link(source, tmp_path / "hard.pt")
    (tmp_path / "soft.pt").symlink_to(source)
    for name in ("a.pt", "hard.pt", "soft.pt"):
        with pytest.raises(UsageError, match="is an input"):
            check_target(tmp_path / name, inputs=[source], force=True)


def test_targets_that_cannot_be_are_refused(tmp_path: Path) -> None:
    (tmp_path / "there.pt").write_bytes(b"x")
    check_target(tmp_path / "new.pt", inputs=[], force=False)
    check_target(tmp_path / "there.pt", inputs=[], force=True)
    for target, message in [
        (tmp_path, "is a directory"),
        (tmp_path / "no" / "a.pt", "its folder does not exist"),
        (tmp_path / "there.pt", "exists already: give --force"),
    ]:
        with pytest.raises(UsageError, match=message):
            check_target(target, inputs=[], force=False)
