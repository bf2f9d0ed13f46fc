"""Checkpoints under URLs: fsspec's memory and local file systems."""

from __future__ import annotations

import shutil
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.numpy import load_file

import rmtcli
from rmtcli.checkpoint import open_checkpoint
from rmtcli.cli.main import main
from rmtcli.errors import CheckpointError, UsageError
from rmtcli.files import as_path, is_remote
from tests.conftest import SAMPLES, model_directory, tree

fsspec = pytest.importorskip("fsspec")
pytest.importorskip("upath")

MLP = SAMPLES / "mnist_mlp.safetensors"


@pytest.fixture
def memory() -> Iterator[str]:
    """A URL of an empty folder."""
    fs = fsspec.filesystem("memory")
    fs.makedirs("/bucket", exist_ok=True)
    yield "memory://bucket"
    fs.rm("/bucket", recursive=True)


def sent(path: Path, url: str) -> str:
    fsspec.filesystem("memory").put(str(path), url, recursive=path.is_dir())
    return url


def received(url: str, folder: Path) -> Path:
    fsspec.filesystem("memory").get(url, str(folder), recursive=True)
    return folder


def test_urls_are_recognised(tmp_path: Path) -> None:
    assert as_path("a/b.pt") == Path("a/b.pt")
    assert as_path(tmp_path) is tmp_path
    assert as_path((tmp_path / "a.pt").as_uri()) == tmp_path / "a.pt"
    assert is_remote(as_path("memory://a"))
    assert not is_remote(as_path("C:model.pt"))


@pytest.mark.parametrize("name", ["mnist_mlp.safetensors", "mnist_deep.pt"])
def test_a_remote_file_gives_the_results_of_a_local_one(
    name: str, memory: str, tmp_path: Path
) -> None:
    url = sent(SAMPLES / name, f"{memory}/{name}")
    here, there = (rmtcli.analyze(path).to_dict() for path in (SAMPLES / name, url))
    assert there["source"].pop("path") == url
    here["source"].pop("path")
    assert there == here
    local, remote = tmp_path / name, f"{memory}/small/{name}"
    rmtcli.prune(SAMPLES / name, local)
    assert rmtcli.prune(url, remote).output is not None
    assert received(remote, tmp_path / "got").read_bytes() == local.read_bytes()
    fs = fsspec.filesystem("memory")
    assert [Path(p).name for p in fs.ls("/bucket/small", detail=False)] == [name]


def test_only_the_tensors_that_are_used_are_read(
    memory: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    url = sent(MLP, f"{memory}/a.safetensors")
    asked = []
    read = type(fsspec.filesystem("memory")).cat_file

    def watched(self: object, path: str, start: int = 0, end: int = 0, **rest: object) -> bytes:
        asked.append(end - start)
        return read(self, path, start=start, end=end, **rest)

    monkeypatch.setattr(type(fsspec.filesystem("memory")), "cat_file", watched)
    checkpoint = open_checkpoint(url)
    checkpoint.array("fc2.weight", None)
    assert sum(asked) < 2 * 4 * 10_000


def test_a_remote_directory_is_read_and_written(memory: str, tmp_path: Path) -> None:
    torch.manual_seed(0)
    state = {f"encoder.{i}.weight": torch.randn(64, 80) for i in range(3)}
    local = model_directory(tmp_path / "bert", state, shards=2)
    url = sent(local, f"{memory}/bert")
    rmtcli.prune(local, tmp_path / "here", keep="fraction:of=0.2")
    rmtcli.prune(url, f"{memory}/there", keep="fraction:of=0.2")
    assert tree(received(f"{memory}/there", tmp_path / "there")) == tree(tmp_path / "here")
    with pytest.raises(UsageError, match="exists already"):
        rmtcli.prune(url, f"{memory}/there", keep="fraction:of=0.2")
    rmtcli.densify(f"{memory}/there", f"{memory}/dense")
    assert fsspec.filesystem("memory").exists("/bucket/dense/config.json")
    with pytest.raises(UsageError, match="copy it first"):
        rmtcli.evaluate(url, evaluation=rmtcli.Evaluation(SAMPLES / "mnist.npz"))


def test_the_command_line_takes_urls(
    memory: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    url, small = sent(MLP, f"{memory}/a.safetensors"), f"{memory}/a.pruned.safetensors"
    for arguments in (["prune", url], ["diff", url, small], ["info", url]):
        monkeypatch.setattr(sys, "argv", ["rmtcli", *arguments])
        with pytest.raises(SystemExit) as done:
            main()
        assert done.value.code == 0, capsys.readouterr().err
    assert small in capsys.readouterr().out


def test_file_urls_are_local_paths(tmp_path: Path) -> None:
    shutil.copy(MLP, tmp_path)
    rmtcli.prune((tmp_path / MLP.name).as_uri(), (tmp_path / "b.safetensors").as_uri())
    assert set(load_file(tmp_path / "b.safetensors")) >= {"fc1.0.weight", "fc1.1.weight"}


def failing(*_: object, **__: object) -> None:
    raise RuntimeError("connection lost\nmore words")


def test_remote_errors_are_reported_in_one_line(
    memory: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    url = sent(MLP, f"{memory}/a.safetensors")
    with pytest.raises(UsageError, match=r"memory://bucket/gone\.pt: no such file"):
        open_checkpoint(f"{memory}/gone.pt")
    with pytest.raises(UsageError, match=r"nowhere://a.pt: cannot be reached"):
        open_checkpoint("nowhere://a.pt")
    kind = type(fsspec.filesystem("memory"))
    with monkeypatch.context() as patch:
        patch.setattr(kind, "cat_file", failing)
        with pytest.raises(CheckpointError, match=r"cannot be reached: connection lost$"):
            rmtcli.analyze(url)
    with monkeypatch.context() as patch:
        patch.setattr(kind, "put_file", failing)
        with pytest.raises(CheckpointError, match=r"cannot be reached: connection lost$"):
            rmtcli.prune(url)
    with monkeypatch.context() as patch:
        patch.setattr(kind, "mv", failing)
        with pytest.raises(CheckpointError, match=r"cannot be reached: connection lost$"):
            rmtcli.prune(url)
    assert [Path(p).name for p in kind().ls("/bucket", detail=False)] == ["a.safetensors"]


def test_damaged_files_are_refused(memory: str, tmp_path: Path) -> None:
    for name, data in {
        "short": MLP.read_bytes()[:1000],
        "tiny": b"\x01",
        "long": (2**62).to_bytes(8, "little") + b"{}",
        "cut": MLP.read_bytes()[:-100],
    }.items():
        (tmp_path / "a.safetensors").write_bytes(data)
        url = sent(tmp_path / "a.safetensors", f"{memory}/{name}.safetensors")
        with pytest.raises(CheckpointError, match="not a whole safetensors file"):
            open_checkpoint(url)


def test_inputs_are_never_overwritten(memory: str) -> None:
    url = sent(MLP, f"{memory}/a.safetensors")
    with pytest.raises(UsageError, match="is an input"):
        rmtcli.prune(url, url, force=True)
    torch.manual_seed(0)
    assert np.array_equal(
        open_checkpoint(url).array("fc2.weight", None), load_file(MLP)["fc2.weight"]
    )


@pytest.mark.parametrize("name", ["mnist_mlp.safetensors", "directory"])
def test_the_output_of_a_faster_run_is_not_replaced(
    name: str, memory: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source, out = SAMPLES / name, f"{memory}/out{Path(name).suffix}"
    if name == "directory":
        state = {"0.weight": torch.randn(90, 80), "1.weight": torch.randn(10, 90)}
        source = model_directory(tmp_path / "m", state)
    fs = fsspec.filesystem("memory")
    other = f"{out}/config.json" if name == "directory" else out

    def meanwhile(_: object) -> tuple[str, ...]:
        fs.pipe_file(other, b"{}")
        return ()

    with pytest.raises(UsageError, match="another run has written it in the meantime"):
        rmtcli.prune(source, out, keep="rank:k=3", refuse=meanwhile)
    assert fs.cat_file(other) == b"{}"
    assert [Path(p).name for p in fs.find("/bucket")] == [Path(other).name]


def test_an_incomplete_upload_is_reported(memory: str, monkeypatch: pytest.MonkeyPatch) -> None:
    kind = type(fsspec.filesystem("memory"))
    put = kind.put_file

    def half(self: object, file: str, there: str, **rest: object) -> None:
        put(self, file, there, **rest)
        self.store[self._strip_protocol(there)].truncate(100)  # type: ignore[attr-defined]

    monkeypatch.setattr(kind, "put_file", half)
    with pytest.raises(CheckpointError, match="another number of bytes than was sent"):
        rmtcli.prune(MLP, f"{memory}/out.safetensors")
    assert fsspec.filesystem("memory").find("/bucket") == []


def test_an_input_that_changes_during_the_upload_is_reported(memory: str, tmp_path: Path) -> None:
    source = shutil.copy(MLP, tmp_path / "a.safetensors")

    def meanwhile(_: object) -> tuple[str, ...]:
        with Path(source).open("ab") as file:
            file.write(b"more")
        return ()

    with pytest.raises(CheckpointError, match="was changed while it was read"):
        rmtcli.prune(source, f"{memory}/out.safetensors", refuse=meanwhile)
    assert fsspec.filesystem("memory").find("/bucket") == []
