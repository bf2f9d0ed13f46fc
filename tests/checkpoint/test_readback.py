"""Outputs are read back before they get their names."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

import rmtcli
from rmtcli.checkpoint import Edited, Manifest, encode, open_checkpoint, staged
from rmtcli.checkpoint.readback import check_written
from rmtcli.cli.main import main
from rmtcli.errors import CheckpointError
from tests.conftest import model_directory, noise, tree

FORMS = {"safetensors": "a.safetensors", "torch": "a.pt", "directory": "a"}
MANIFEST = Manifest("0", "a", "0" * 64, "auto", "select", {"1": 2}, ranks={"1.weight": 2})


@pytest.fixture
def inputs(tmp_path: Path) -> Path:
    """A network in every format."""
    state = {f"{i}.weight": torch.from_numpy(noise((90, 80), seed=i)).float() for i in range(3)}
    folder = tmp_path / "in"
    folder.mkdir()
    save_file(state, folder / "a.safetensors")
    torch.save(state, folder / "a.pt")
    model_directory(folder / "a", state)
    return folder


@pytest.fixture
def lying_disk(monkeypatch: pytest.MonkeyPatch) -> Callable[[int], None]:
    """A disk that changes one byte of each file after it has reported success."""

    def change(before_the_end: int) -> None:
        real = os.fsync

        def fsync(handle: int) -> None:
            real(handle)
            path = Path(f"/proc/self/fd/{handle}").resolve()
            if path.is_file() and path.suffix in (".tmp", ".safetensors"):
                with path.open("r+b") as file:
                    file.seek(-before_the_end, os.SEEK_END)
                    byte = file.read(1)[0]
                    file.seek(-1, os.SEEK_CUR)
                    file.write(bytes([byte ^ 1]))

        monkeypatch.setattr(os, "fsync", fsync)

    return change


@pytest.mark.skipif(not Path("/proc/self/fd").is_dir(), reason="finds open files by Linux's /proc")
@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("command", ["prune --keep rank:k=3", "densify"])
def test_bytes_that_the_disk_changes_are_detected(
    form: str, command: str, inputs: Path, tmp_path: Path, lying_disk: Callable[[int], None],
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    source, out = inputs / FORMS[form], tmp_path / "out" / FORMS[form]
    out.parent.mkdir()
    if command == "densify":
        small = inputs / f"small{source.suffix}"
        rmtcli.prune(source, small, keep="rank:k=3")
        source = small
    before = tree(inputs)
    lying_disk(5000)  # in the last tensor of every format
    words = ["rmtcli", *command.split(), str(source), "-o", str(out)]
    monkeypatch.setattr("sys.argv", words)
    with pytest.raises(SystemExit) as done:
        main()
    said = capsys.readouterr().err
    assert done.value.code == 1
    assert said.startswith(f"rmtcli: error: {out}: read back after writing, ")
    assert said.count("\n") == 1
    assert tree(out.parent) == {}
    assert tree(inputs) == before
    monkeypatch.setattr("sys.argv", [*words, "--no-verify"])
    with pytest.raises(SystemExit) as done:
        main()
    assert done.value.code == 0
    assert out.exists()


def test_a_difference_is_named(tmp_path: Path) -> None:
    def made(**tensors: np.ndarray) -> Path:
        path = tmp_path / f"{len(list(tmp_path.iterdir()))}.safetensors"
        save_file({name: torch.from_numpy(x.copy()) for name, x in tensors.items()}, path)
        return path

    a, b = np.ones((3, 2), np.float32), np.zeros(4, np.float32)
    meant = open_checkpoint(made(a=a, b=b))
    check_written(open_checkpoint(made(a=a, b=b)), meant, Path("out"))
    for what, path in {
        "'b' is missing": made(a=a),
        "'c' is left over": made(a=a, b=b, c=b),
        r"'a' is F32 of shape \(2, 3\), and should be F32 of shape \(3, 2\)": made(
            a=a.T.copy(), b=b
        ),
        "'b' is F64 of": made(a=a, b=b.astype("f8")),
        "'b' has other values": made(a=a, b=-b),  # −0 equals 0, and its bytes do not
    }.items():
        with pytest.raises(CheckpointError, match=f"out: read back after writing, {what}"):
            check_written(open_checkpoint(path), meant, Path("out"))


def test_the_manifest_is_compared(tmp_path: Path) -> None:
    save_file({"a": torch.zeros(3)}, tmp_path / "a.safetensors")
    source = open_checkpoint(tmp_path / "a.safetensors")
    meant = Edited(source, {}, MANIFEST)
    check_written(Edited(source, {}, MANIFEST), meant, Path("out"))
    other = Edited(source, {}, replace(MANIFEST, ranks={"1.weight": 3}))
    with pytest.raises(CheckpointError, match="record"):
        check_written(other, meant, Path("out"))


def test_tensors_are_read_back_from_the_file(inputs: Path, tmp_path: Path) -> None:
    source = open_checkpoint(inputs / "a.safetensors")
    new = encode(np.full((2, 2), 7.0), "F32")
    edited = Edited(source, {"1.weight": {"new": new}}, None)
    out = tmp_path / "out.pt"
    with staged(edited, out) as written:
        assert written is not None
        assert not out.exists()
        stored = written.raw("new").data
    assert not np.shares_memory(stored, new.data)
    assert np.array_equal(stored, new.data)
    with staged(edited, out, verify=False) as written:
        assert written is None
