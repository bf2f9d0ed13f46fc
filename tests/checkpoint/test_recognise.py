"""Files are known by their first bytes: checkpoints under any name, and files of other kinds."""

from __future__ import annotations

import gzip
import io
import pickle
import tarfile
import zipfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from torch import nn

import rmtcli
from rmtcli.checkpoint import open_checkpoint
from rmtcli.errors import CheckpointError
from tests.checkpoint.torch.test_archive import export, script

STATE = {"fc.weight": torch.arange(12.0).reshape(3, 4)}
NAMES = ("a", "a.pth.tar", "a.th", "a.pkl", "a.model", "a.safetensors", "a.pt", "a.pt2", "a.sft")
WRITERS: dict[str, Callable[[Path], object]] = {
    "torch": lambda path: torch.save({"state_dict": STATE}, path),
    "torch, older": lambda path: torch.save(STATE, path, _use_new_zipfile_serialization=False),
    "safetensors": lambda path: save_file(STATE, path),
}


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("kind", WRITERS)
def test_a_checkpoint_is_read_under_any_name(kind: str, name: str, tmp_path: Path) -> None:
    WRITERS[kind](tmp_path / name)
    checkpoint = open_checkpoint(tmp_path / name)
    assert checkpoint.form == f"{kind.partition(',')[0]} file"
    np.testing.assert_array_equal(checkpoint.array("fc.weight"), STATE["fc.weight"])


def test_archives_with_programs_are_read_under_any_name(tmp_path: Path) -> None:
    script(nn.Linear(40, 3), tmp_path / "a.jit")
    assert open_checkpoint(tmp_path / "a.jit").form == "TorchScript archive"
    export(nn.Linear(40, 3), tmp_path / "a.pt2").rename(tmp_path / "a.pt")
    assert open_checkpoint(tmp_path / "a.pt").form == "torch.export archive"
    with zipfile.ZipFile(tmp_path / "a.pt", "a") as file:
        file.writestr(
            f"{file.namelist()[0].partition('/')[0]}/data.pkl", b""
        )  # as some versions do
    assert open_checkpoint(tmp_path / "a.pt").form == "torch.export archive"


def test_the_output_of_a_file_without_a_known_ending_is_safetensors(tmp_path: Path) -> None:
    state = {"fc.weight": torch.randn(64, 64), "head.weight": torch.randn(10, 64)}
    torch.save(state, tmp_path / "a.pth.tar")
    report = rmtcli.prune(tmp_path / "a.pth.tar", keep="rank:k=2")
    assert report.output is not None
    assert report.output.path == str(tmp_path / "a.pth.pruned.safetensors")


def archive(entries: dict[str, bytes]) -> bytes:
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w") as file:
        for name, data in entries.items():
            file.writestr(name, data)
    return stream.getvalue()


def arrays() -> bytes:
    stream = io.BytesIO()
    np.savez(stream, w=np.ones(3))
    return stream.getvalue()


def tar() -> bytes:
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode="w") as file:
        file.addfile(tarfile.TarInfo("a.pt"))
    return stream.getvalue()


def array() -> bytes:
    stream = io.BytesIO()
    np.save(stream, np.ones(3))
    return stream.getvalue()


OTHERS = {
    b"version https://git-lfs.github.com/spec/v1\noid": "a Git LFS pointer: fetch the file",
    b"\n<!DOCTYPE html><html>": "a page of HTML, which a failed download leaves: download",
    b"<html><head>": "a page of HTML",
    b"<?xml version='1.0'?><Error>": "a page of XML",
    b'{"error": "Repository not found"}': "text in JSON, not weights: name the file",
    gzip.compress(b"x"): "compressed by gzip: unpack it with 'gunzip'",
    b"\x89HDF\r\n\x1a\n": "an HDF5 file",
    array(): "a NumPy array: save it under a name",
    arrays(): "a NumPy archive",
    tar(): "a tar archive: unpack it with 'tar xf'",
    archive({"weights/a.bin": b"x"}): "a zip archive that torch did not write: unpack it",
}


@pytest.mark.parametrize("name", ["a.pt", "a.safetensors", "a"])
@pytest.mark.parametrize("content", OTHERS, ids=OTHERS.values())
def test_a_file_of_another_kind_is_named(content: bytes, name: str, tmp_path: Path) -> None:
    path = tmp_path / name
    path.write_bytes(content)
    with pytest.raises(CheckpointError) as caught:
        open_checkpoint(path)
    assert str(caught.value).startswith(f"{path}: {OTHERS[content]}")
    assert "\n" not in str(caught.value)


def test_a_header_that_begins_as_gzip_does_is_safetensors(tmp_path: Path) -> None:
    """The first bytes of safetensors are a length, which can be any."""
    header = b'{"a":{"dtype":"F32","shape":[2],"data_offsets":[0,8]}}'.ljust(0x8B1F)
    (tmp_path / "a").write_bytes(len(header).to_bytes(8, "little") + header + bytes(8))
    assert open_checkpoint(tmp_path / "a").parameters == 2


@pytest.mark.parametrize("writer", ["torch.save", "pickle.dump"])
def test_a_newer_pickle_is_named(writer: str, tmp_path: Path) -> None:
    """A plain one is read without torch, whose own reader knows protocol 2."""
    path = tmp_path / "a.pt"
    torch.save(STATE, path, pickle_protocol=4)
    assert open_checkpoint(path).parameters == 12
    if writer == "torch.save":
        torch.save({"part": torch.ones(1000, 64)[:10]}, path, pickle_protocol=4)
    else:
        path.write_bytes(pickle.dumps({"w": [1.0]}))
    with pytest.raises(CheckpointError, match=r"protocol 4 or newer, .* save it again with torch"):
        open_checkpoint(path)


def test_shards_of_a_distributed_model_are_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """torch says so, unless something has imported its module for them in the meantime."""

    def load(*_: object, **__: object) -> None:
        raise pickle.UnpicklingError(
            "``torch.distributed.tensor`` must be imported to load DTensors"
        )

    monkeypatch.setattr(torch, "load", load)
    pickled = b"\x80\x02}X\x01\x00\x00\x00actorch.distributed.tensor\nDTensor\n)\x81s."
    (tmp_path / "a.pt").write_bytes(archive({"a/data.pkl": pickled, "a/version": b"3"}))
    with pytest.raises(CheckpointError, match=r"shards of a distributed .*full_state_dict=True"):
        open_checkpoint(tmp_path / "a.pt")
