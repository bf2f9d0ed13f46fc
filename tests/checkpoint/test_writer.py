from __future__ import annotations

import errno
import logging
import os
from pathlib import Path
from typing import BinaryIO

import pytest
import torch
from safetensors.torch import load_file

from rmtcli.checkpoint import format_of, open_checkpoint, staged, write_checkpoint
from rmtcli.errors import CheckpointError, UsageError
from rmtcli.files import check_target, write_file
from rmtcli.files.atomic import staged_directory, staged_file, with_path
from tests.conftest import SAMPLES, model_directory, tree


def test_a_file_appears_complete_or_not_at_all(tmp_path: Path) -> None:
    target = tmp_path / "out"
    target.write_bytes(b"old")

    def fail(file: BinaryIO) -> None:
        file.write(b"half")
        raise OSError(28, "No space left on device")

    with pytest.raises(OSError, match="No space") as caught:
        write_file(target, fail)
    assert caught.value.filename == str(target)
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


def test_an_input_is_never_a_target_under_any_name(tmp_path: Path) -> None:
    source = tmp_path / "a.pt"
    source.write_bytes(b"x")
    os.link(source, tmp_path / "hard.pt")
    (tmp_path / "soft.pt").symlink_to(source)
    for name in ("a.pt", "hard.pt", "soft.pt"):
        with pytest.raises(UsageError, match="is an input"):
            check_target(tmp_path / name, inputs=[source], force=True)


def test_targets_that_cannot_be_written_are_refused(tmp_path: Path) -> None:
    (tmp_path / "there.pt").write_bytes(b"x")
    check_target(tmp_path / "new.pt", inputs=[], force=False)
    check_target(tmp_path / "there.pt", inputs=[], force=True)
    for target, message in [
        (tmp_path, "is a directory"),
        (tmp_path / "there.pt" / "a.pt", f"{tmp_path / 'there.pt'} is a file: name a folder"),
        (tmp_path / "there.pt", "exists already: give force="),
    ]:
        with pytest.raises(UsageError, match=f"^{target}: {message}"):
            check_target(target, inputs=[], force=False)
    for directory in (False, True):
        check_target(tmp_path / "no" / "a", inputs=[], force=True, directory=directory)


def test_a_folder_without_write_permission_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def access(path: Path, mode: int) -> bool:
        assert path == tmp_path
        return not mode & os.W_OK

    monkeypatch.setattr(os, "access", access)
    with pytest.raises(UsageError, match=r"a\.pt: its folder may not be written to$"):
        check_target(tmp_path / "a.pt", inputs=[], force=True)


def test_nothing_is_written_inside_an_input_or_around_one(tmp_path: Path) -> None:
    model = model_directory(tmp_path / "m", {"a": torch.ones(2)})
    (tmp_path / "data.npz").write_bytes(b"x")
    (tmp_path / "elsewhere").mkdir()
    inputs = [model, tmp_path / "data.npz"]
    with pytest.raises(UsageError, match="is inside an input, and inputs are never changed"):
        check_target(model / "a.pt", inputs=inputs, force=True)
    with pytest.raises(UsageError, match="holds an input, and inputs are never overwritten"):
        check_target(tmp_path, inputs=inputs, force=True, directory=True)
    for target in (tmp_path / "new", tmp_path / "m.pt", tmp_path / "elsewhere" / "m"):
        check_target(target, inputs=inputs, force=False, directory=True)
        check_target(target, inputs=inputs, force=False)


def test_one_path_for_two_outputs_is_refused(tmp_path: Path) -> None:
    """Neither output exists yet: a report, for example, and the checkpoint."""
    target = tmp_path / "a.pt"
    check_target(target, inputs=[tmp_path / "b.pt"], force=False)
    with pytest.raises(UsageError, match="is given for two outputs: give each a file of its own"):
        check_target(target, inputs=[tmp_path / "b.pt", tmp_path / "." / "a.pt"], force=False)


def test_only_a_directory_with_a_model_is_replaced(tmp_path: Path) -> None:
    model = model_directory(tmp_path / "m", {"a": torch.ones(2)})
    with pytest.raises(UsageError, match="exists already: give force= to replace it"):
        check_target(model, inputs=[], force=False, directory=True)
    check_target(model, inputs=[], force=True, directory=True)
    (tmp_path / "home").mkdir()
    with pytest.raises(UsageError, match="holds no model that could be replaced: name another"):
        check_target(tmp_path / "home", inputs=[], force=True, directory=True)


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("out", "directory"),
        ("out.v2", "directory"),
        ("a.safetensors", "safetensors"),
        ("A.PT", "torch"),
        ("a.ckpt", "torch"),
    ],
)
def test_the_targets_name_decides_the_format_of_a_directory(
    name: str, expected: str, tmp_path: Path
) -> None:
    model = open_checkpoint(model_directory(tmp_path / "m", {"a": torch.ones(2)}))
    assert format_of(model, tmp_path / name).name == expected


def test_a_file_needs_the_ending_of_a_format_that_is_written(tmp_path: Path) -> None:
    source = open_checkpoint(SAMPLES / "mnist_mlp.safetensors")
    with pytest.raises(UsageError, match="not a checkpoint by its name"):
        format_of(source, tmp_path / "out")
    with pytest.raises(UsageError, match=r"read only: name a .safetensors or .pt file$"):
        format_of(source, tmp_path / "a.pt2")


def test_a_model_is_written_in_every_format(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    state = {"a.weight": torch.arange(6.0).reshape(2, 3)}
    folder = model_directory(tmp_path / "m", state)
    (folder / "README.md").write_text("old")
    model = open_checkpoint(folder)
    caplog.set_level(logging.INFO, "rmtcli")
    write_checkpoint(model, tmp_path / "a.safetensors")
    write_checkpoint(model, tmp_path / "a.pt")
    write_checkpoint(model, tmp_path / "out", card="new")
    assert [record.getMessage() for record in caplog.records] == [
        line
        for name in ("a.safetensors", "a.pt", "out")
        for line in (f"writing {tmp_path / name}", f"reading {tmp_path / name} back")
    ]
    read = load_file(tmp_path / "a.safetensors")["a.weight"], torch.load(tmp_path / "a.pt")
    assert torch.equal(read[0], state["a.weight"])
    assert torch.equal(read[1]["a.weight"], state["a.weight"])
    assert (tmp_path / "out" / "README.md").read_text() == "new"
    for name in ("a.safetensors", "out"):
        write_checkpoint(model, tmp_path / name)
        write_checkpoint(model, tmp_path / name, force=True)
        with pytest.raises(UsageError, match="another run has written it in the meantime"):
            write_checkpoint(model, tmp_path / name, force=False)


def test_an_input_that_changes_while_it_is_read_stops_the_writing(tmp_path: Path) -> None:
    file = tmp_path / "a.safetensors"
    file.write_bytes((SAMPLES / "mnist_mlp.safetensors").read_bytes())
    source = open_checkpoint(file)
    os.utime(file, ns=(0, 0))
    with pytest.raises(CheckpointError, match="changed"):
        write_checkpoint(source, tmp_path / "b.safetensors")
    assert list(tree(tmp_path)) == ["a.safetensors"]


def test_a_staged_file_is_on_the_disk_and_has_a_temporary_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    target, sizes = tmp_path / "out", []

    def fsync(file: int) -> None:
        sizes.append(os.fstat(file).st_size)

    monkeypatch.setattr(os, "fsync", fsync)
    with staged_file(target, lambda file: file.write(b"new")) as temporary:
        assert sizes == [3]
        assert tree(tmp_path) == {temporary.name: b"new"}
        assert temporary.parent == tmp_path
        assert temporary.name.startswith(".rmtcli-")
        assert temporary.suffix == ".tmp"
    assert sizes == [3]
    assert tree(tmp_path) == {"out": b"new"}

    with (
        pytest.raises(CheckpointError, match=r"^changed$"),
        staged_file(target, lambda file: file.write(b"newer")),
    ):
        raise CheckpointError("changed")
    assert tree(tmp_path) == {"out": b"new"}


@pytest.mark.parametrize("error", [CheckpointError("refused"), KeyboardInterrupt()])
@pytest.mark.parametrize("name", ["a.safetensors", "a.pt", "out"])
def test_an_error_in_the_block_leaves_nothing(
    error: BaseException, name: str, tmp_path: Path
) -> None:
    """An output that exists already stays."""
    model = open_checkpoint(model_directory(tmp_path / "m", {"a": torch.ones(2)}))

    def stop() -> None:
        before = tree(tmp_path)
        with staged(model, tmp_path / name) as written:
            assert written is not None
            assert list(written.infos) == ["a"]
            assert not tree(tmp_path).keys() <= before.keys()
            raise error

    for replacing in (False, True):
        if replacing:
            write_checkpoint(model, tmp_path / name)
        before = tree(tmp_path)
        with pytest.raises(type(error)) as caught:
            stop()
        assert caught.value is error
        assert tree(tmp_path) == before


@pytest.mark.parametrize("links", [True, False], ids=["links", "no links"])
def test_without_force_nothing_is_replaced(
    links: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def link(*_: object) -> None:
        raise OSError(errno.EPERM, "no hard links here")

    if not links:
        monkeypatch.setattr(os, "link", link)
    target = tmp_path / "out"
    write_file(target, lambda file: file.write(b"first"), force=False)
    assert tree(tmp_path) == {"out": b"first"}
    assert target.stat().st_nlink == 1
    with pytest.raises(UsageError, match=r"out: another run has written it .* give force="):
        write_file(target, lambda file: file.write(b"second"), force=False)
    assert tree(tmp_path) == {"out": b"first"}


def test_folders_are_made_for_an_output_and_removed_if_it_fails(tmp_path: Path) -> None:
    target = tmp_path / "a/b/c.txt"
    file = staged_file(target, lambda file: file.write(b"x"))
    for staged_output in (file, staged_directory(target, lambda folder: None, last="x")):
        with pytest.raises(ZeroDivisionError), staged_output:
            1 // len(list(target.parent.glob("c.txt")))  # the folder exists, and not the file
        assert not (tmp_path / "a").exists()
    write_file(target, lambda file: file.write(b"x"))
    assert target.read_bytes() == b"x"


def test_system_errors_name_the_output() -> None:
    output = Path("out.pt")
    for error in (OSError(errno.EIO, "broken"), OSError(errno.ENOSPC, "full", "copied.pt")):
        named = with_path(error, output)
        assert isinstance(named, OSError)
        assert (named.errno, named.strerror) == (error.errno, error.strerror)
        assert named.filename == "out.pt"
    others = OSError(errno.EACCES, "no rights", "in.pt"), OSError("no number"), ValueError("else")
    for error in others:
        assert with_path(error, output) is error


def test_a_file_that_cannot_be_created_is_named(tmp_path: Path) -> None:
    (tmp_path / "no").touch()
    with pytest.raises(FileExistsError) as caught:
        write_file(tmp_path / "no" / "out", lambda file: file.write(b"x"))
    assert Path(caught.value.filename) == tmp_path / "no"
