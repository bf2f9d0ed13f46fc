"""The table of formats, and formats that another package adds."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

import rmtcli
from rmtcli.checkpoint import (
    Checkpoint,
    FileCheckpoint,
    Format,
    Manifest,
    RawTensor,
    TensorInfo,
    encode,
    find_format,
    formats,
    open_checkpoint,
)
from rmtcli.checkpoint.ties import equal_tensors
from rmtcli.errors import UsageError
from tests.conftest import SAMPLES


class PlainFile(FileCheckpoint):
    """NumPy's archives of float32 arrays, as a package outside of rmtcli might read them."""

    form = "plain file"

    def __init__(self, path: Path) -> None:
        super().__init__(path)
        with np.load(path) as arrays:
            self._arrays = dict(arrays)
        self.manifest = Manifest.from_json(str(self._arrays.pop("manifest", "")))
        self.infos = {name: TensorInfo(x.shape, "F32") for name, x in self._arrays.items()}

    def raw(self, name: str) -> RawTensor:
        return encode(self._arrays[name], "F32")

    def ties(self, names: Iterable[str]) -> Mapping[str, str]:
        return equal_tensors(self, names)


def write_plain(checkpoint: Checkpoint, file: BinaryIO) -> None:
    arrays: dict[str, Any] = {name: checkpoint.array(name) for name in checkpoint.distinct}
    if checkpoint.manifest is not None:
        arrays["manifest"] = checkpoint.manifest.to_json()
    np.savez(file, **arrays)


class Point:
    """An entry point."""

    def __init__(self, name: str, added: Format) -> None:
        self.name, self.added = name, added

    def load(self) -> Format:
        return self.added


@pytest.fixture
def added(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Another package's format, and one that claims an ending of rmtcli's."""
    points = [
        Point("plain", Format("plain", (".plain",), PlainFile, write_plain)),
        Point("mine", Format("mine", (".pt",), PlainFile)),
    ]
    monkeypatch.setattr(formats, "entry_points", lambda group: points)
    formats._added.cache_clear()
    yield
    formats._added.cache_clear()


@pytest.mark.parametrize("item", [*formats._FORMATS, formats.DIRECTORY], ids=lambda item: item.name)
def test_the_table_names_existing_functions(item: Format) -> None:
    for function in (item.open, item.write, item.stage):
        if function is not None:
            assert isinstance(function, formats.Deferred)
            module, _, name = function.target.partition(":")
            __import__(module)
            assert callable(getattr(sys.modules[module], name))


def test_a_format_is_imported_when_a_file_needs_it() -> None:
    program = (
        "import sys, rmtcli.checkpoint as c\n"
        "kinds = 'safetensors', 'torch', 'huggingface'\n"
        "names = [f'rmtcli.checkpoint.{kind}' for kind in kinds] + ['torch', 'safetensors']\n"
        "print([name for name in names if name in sys.modules])\n"
        f"c.open_checkpoint({str(SAMPLES / 'mnist_mlp.safetensors')!r})\n"
        "print([name for name in names if name in sys.modules])\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True
    )
    before, after = done.stdout.splitlines()
    assert before == "[]"
    assert after == "['rmtcli.checkpoint.safetensors', 'safetensors']"


@pytest.mark.usefixtures("added")
def test_another_package_adds_a_format(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    state = {f"{i}.weight": rng.standard_normal((90, 80), np.float32) for i in range(2)}
    save_file(state, tmp_path / "a.safetensors")
    report = rmtcli.prune(tmp_path / "a.safetensors", tmp_path / "a.plain", keep="rank:k=3")
    assert report.readback is not None
    assert report.readback.tensors == 4
    assert open_checkpoint(tmp_path / "a.plain").form == "plain file"
    rmtcli.densify(tmp_path / "a.plain", tmp_path / "b.plain")
    again = rmtcli.prune(tmp_path / "b.plain", keep="rank:k=2")
    assert again.output is not None
    assert again.output.path == str(tmp_path / "b.pruned.plain")
    product = np.load(tmp_path / "b.plain")["0.weight"]
    rmtcli.densify(tmp_path / "a.plain", tmp_path / "b.safetensors")
    assert np.array_equal(load_file(tmp_path / "b.safetensors")["0.weight"], product)


@pytest.mark.usefixtures("added")
def test_an_added_format_cannot_replace_an_ending() -> None:
    file_format = find_format(Path("a.pt"))
    assert file_format is not None
    assert file_format.name == "torch"
    with pytest.raises(UsageError, match=r"one of \.safetensors, .*\.onnx, \.gguf, \.plain$"):
        formats.format_by_ending(Path("a.txt"))
