"""A part of the sweep, and faults that need another process, another user or another disk."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from rmtcli.checkpoint import open_checkpoint
from rmtcli.errors import CheckpointError
from tests.conftest import tree
from tests.faults.sweep import COMMANDS, FAULTS, Case, Record, prepare, sweep
from tests.sandbox import Sandbox

root_only = pytest.mark.skipif(os.geteuid() != 0, reason="only root can become another user")
#: Numbers of the user and group nobody.
NOBODY = 65534


def _closed(path: Path) -> bool:
    """Whether others may not enter a folder."""
    return any(not folder.stat().st_mode & 0o001 for folder in (path, *path.parents))


#: Modules that another user imports late must be readable for all.
readable = pytest.mark.skipif(
    any(_closed(folder) for folder in (Path(sys.prefix), Path(__file__).parent)),
    reason="the environment is in a folder that is closed to others",
)


@pytest.fixture(scope="module")
def other(sandbox: Sandbox) -> Iterator[Sandbox]:
    """A second sandbox, for runs at the same time."""
    with sandbox.forked() as started:
        yield started


@pytest.fixture(scope="module")
def inputs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("inputs")
    prepare(folder)
    return folder


@pytest.mark.parametrize("fault", FAULTS)
@pytest.mark.parametrize(
    ("command", "replacing"), [("safetensors", False), ("torch", True), ("directory", True)]
)
def test_no_fault_loses_data(
    command: str, replacing: bool, fault: str, sandbox: Sandbox, inputs: Path, tmp_path: Path
) -> None:
    case, record = Case(command, replacing, sandbox, inputs, tmp_path), Record()
    FAULTS[fault](case, record, 4 if command == "directory" else 1)
    assert record.runs
    assert record.losses == record.errors == []


@pytest.mark.slow
def test_no_fault_at_any_point_loses_data(tmp_path: Path) -> None:
    record = Record()
    (tmp_path / "inputs").mkdir()
    sweep(record, tmp_path / "inputs", tmp_path)
    assert record.killed > 100
    assert record.losses == record.errors == []


@pytest.mark.parametrize("command", ["safetensors", "torch", "directory", "densify"])
@pytest.mark.parametrize("forced", [False, True])
def test_of_two_runs_one_wins_and_the_other_reports_it(
    command: str, forced: bool, sandbox: Sandbox, other: Sandbox, inputs: Path, tmp_path: Path
) -> None:
    """The first waits just before it renames its output; meanwhile the second one finishes."""
    case = Case(command, False, sandbox, inputs, tmp_path)
    words = [*case.words, *(["--force"] if forced else [])]
    named = ("link", "rename", "replace")
    points = sandbox.run(*words, cwd=tmp_path, counted=True).points
    last = max(i for i, point in enumerate(points, 1) if point in named)
    case.clean()
    wait = "import time, os\nwhile not os.path.exists('go'): time.sleep(0.01)"
    other.start(*words, cwd=tmp_path, at=last, call="open('waits', 'w').close()\n" + wait)
    while not (tmp_path / "waits").exists():
        time.sleep(0.01)
    assert sandbox.run(*words, cwd=tmp_path).code == 0
    winner = case.values(case.output)
    (tmp_path / "go").touch()
    slower = other.end()
    assert case.values(case.output) == winner == case.whole
    if forced and command != "directory":
        assert slower.code == 0
    else:
        assert slower.code == 2
        assert slower.one_line
        assert f"{case.output.name}: another run has written it" in slower.stderr
    record = Record()
    case.check("two at once", record)
    assert record.losses == record.errors == []


@pytest.mark.parametrize("command", ["torch", "safetensors", "directory"])
def test_an_input_truncated_while_it_is_read(
    command: str, sandbox: Sandbox, inputs: Path, tmp_path: Path
) -> None:
    """A torch file is mapped: the system kills a reader beyond its new end. Nothing is written."""
    case = Case(command, False, sandbox, inputs, tmp_path)
    file = case.words[1] if command != "directory" else "m/model-00001-of-00002.safetensors"
    data = (tmp_path / file).read_bytes()
    done = case.run(at=1, call=f"os.truncate({file!r}, 100)")
    assert done.code in (1, -7)
    assert done.code == -7 or done.one_line
    (tmp_path / file).write_bytes(data)
    assert not case.output.exists()
    record = Record()
    case.check("cut short", record, left=done.code == -7)
    assert record.losses == record.errors == []


@pytest.mark.parametrize("command", ["safetensors", "torch", "directory"])
@root_only
def test_a_full_disk(command: str, sandbox: Sandbox, inputs: Path, tmp_path: Path) -> None:
    """A real file system with room for a part of the output."""
    case, record = Case(command, False, sandbox, inputs, tmp_path), Record()
    output = COMMANDS[command][1]
    disk = tmp_path / "disk"
    disk.mkdir()
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=64k", "tmpfs", disk], check=False)
    if mounted.returncode:
        pytest.skip("may not mount")
    try:
        for filling in (60_000, 40_000, 20_000, 4096):
            (disk / "filling").write_bytes(bytes(filling))
            target = disk / output
            done = sandbox.run(*case.words[:-1], target, cwd=tmp_path)
            if done.code:
                case.said(done, f"{filling} bytes taken", record)
                assert f"{target}: No space left on device" in done.stderr
                assert [item.name for item in disk.iterdir()] == ["filling"]
            else:
                assert case.values(target) == case.whole
                shutil.rmtree(target) if target.is_dir() else target.unlink()
    finally:
        subprocess.run(["umount", disk], check=True)
    disk.rmdir()
    case.check("a full disk", record)
    assert record.losses == record.errors == []


@pytest.fixture
def public(inputs: Path) -> Iterator[Path]:
    """A folder with inputs that every user can read."""
    with tempfile.TemporaryDirectory(prefix="rmtcli-") as name:
        folder = Path(name)
        shutil.copytree(inputs, folder, dirs_exist_ok=True)
        for item in (folder, *folder.rglob("*")):
            item.chmod(0o755 if item.is_dir() else 0o644)
        yield folder


@readable
@root_only
@pytest.mark.parametrize("command", ["safetensors", "torch", "directory"])
def test_a_folder_without_write_permission(command: str, sandbox: Sandbox, public: Path) -> None:
    before = tree(public)
    done = sandbox.run(*COMMANDS[command][0].split(), cwd=public, user=NOBODY)
    assert done.code == 2
    assert done.stderr.endswith(": its folder may not be written to\n")
    assert tree(public) == before


@readable
@root_only
@pytest.mark.parametrize("command", ["safetensors", "torch", "directory"])
def test_an_input_without_read_permission(command: str, sandbox: Sandbox, public: Path) -> None:
    words = COMMANDS[command][0].split()
    before = tree(public)
    secret = public / (words[1] if command != "directory" else "m/README.md")
    secret.chmod(0)
    public.chmod(0o777)
    done = sandbox.run(*words, cwd=public, user=NOBODY)
    assert done.code == 1
    assert done.one_line
    assert secret.name in done.stderr
    assert done.stderr.endswith("Permission denied\n")
    assert tree(public) == before


@root_only
def test_a_read_only_disk(sandbox: Sandbox, inputs: Path, tmp_path: Path) -> None:
    case = Case("safetensors", False, sandbox, inputs, tmp_path)
    disk = tmp_path / "disk"
    disk.mkdir()
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "ro", "tmpfs", disk], check=False)
    if mounted.returncode:
        pytest.skip("may not mount")
    try:
        done = sandbox.run(*case.words[:-1], disk / "out.safetensors", cwd=tmp_path)
    finally:
        subprocess.run(["umount", disk], check=True)
    assert done.code in (1, 2)
    assert done.one_line
    assert "disk/out.safetensors: " in done.stderr


def test_the_temporary_file_of_a_killed_run_is_not_a_checkpoint(
    sandbox: Sandbox, inputs: Path, tmp_path: Path
) -> None:
    """Its name begins with a dot; recognised by its first bytes, it is refused as incomplete."""
    case = Case("safetensors", False, sandbox, inputs, tmp_path)
    case.run(at=3, send=9)
    (left,) = tmp_path.glob(".rmtcli-*")
    assert left.suffix == ".tmp"
    with pytest.raises(CheckpointError, match="not a whole safetensors file"):
        open_checkpoint(left)
