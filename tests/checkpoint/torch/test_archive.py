"""TorchScript and torch.export archives: weights, and no code."""

from __future__ import annotations

import pickle
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from torch import nn

import rmtcli
from rmtcli.checkpoint import open_checkpoint
from rmtcli.errors import CheckpointError, UsageError
from tests.cli.test_failures import Payload


class Tied(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Sequential(nn.Linear(40, 48), nn.ReLU(), nn.Linear(48, 40))
        self.norm = nn.BatchNorm1d(40)
        self.again = self.body

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.norm(self.body(x))


def script(model: nn.Module, path: Path) -> Path:
    # torch.jit is deprecated; its files remain.
    import warnings

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.jit.save(torch.jit.script(model.eval()), path)
    return path


def export(model: nn.Module, path: Path) -> Path:
    import warnings

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.export.save(torch.export.export(model.eval(), (torch.randn(2, 40),)), path)
    return path


@pytest.mark.parametrize(("make", "name"), [(script, "a.pt"), (export, "a.pt2")])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_weights_equal_the_state_dict(
    tmp_path: Path, make: Any, name: str, dtype: torch.dtype
) -> None:
    model = nn.Sequential(nn.Linear(40, 48), nn.ReLU(), nn.Linear(48, 40)).to(dtype)
    if make is export and dtype is torch.bfloat16:
        model = model.float()
    checkpoint = open_checkpoint(make(model, tmp_path / name))
    state = model.state_dict()
    assert list(checkpoint.infos) == list(state)
    for key, value in state.items():
        np.testing.assert_array_equal(checkpoint.array(key), value.float().numpy())


def test_a_module_under_two_names_is_tied(tmp_path: Path) -> None:
    checkpoint = open_checkpoint(script(Tied(), tmp_path / "a.pt"))
    assert set(checkpoint.aliases) == {f"again.{i}.{w}" for i in (0, 2) for w in ("weight", "bias")}
    assert checkpoint.infos["norm.num_batches_tracked"].dtype == "I64"
    rmtcli.prune(tmp_path / "a.pt", keep="rank:k=3")
    pruned = torch.load(tmp_path / "a.pruned.pt")
    assert pruned["body.0.0.weight"].shape == (3, 40)
    first, second = (pruned[f"{name}.0.0.weight"] for name in ("body", "again"))
    assert first.data_ptr() == second.data_ptr()


def test_an_exported_program_becomes_safetensors(tmp_path: Path) -> None:
    export(nn.Sequential(nn.Linear(40, 48), nn.ReLU(), nn.Linear(48, 40)), tmp_path / "a.pt2")
    report = rmtcli.prune(tmp_path / "a.pt2", keep="rank:k=3")
    assert report.output is not None
    assert report.output.path == str(tmp_path / "a.pruned.safetensors")
    assert load_file(tmp_path / "a.pruned.safetensors")["0.0.weight"].shape == (3, 40)
    with pytest.raises(UsageError, match=r"b\.pt2: this format is read only"):
        rmtcli.prune(tmp_path / "a.pt2", tmp_path / "b.pt2", keep="rank:k=3")


def rewritten(source: Path, target: Path, change: dict[str, bytes]) -> Path:
    with zipfile.ZipFile(source) as old, zipfile.ZipFile(target, "w") as new:
        for name in old.namelist():
            ending = name.partition("/")[2]
            new.writestr(name, change.get(ending, old.read(name)))
    return target


@pytest.mark.parametrize(
    ("name", "entry", "data", "line"),
    [
        ("a.pt", "data.pkl", pickle.dumps(Payload()), "refused: its pickle calls for posix.mkdir"),
        ("a.pt", "data.pkl", b"\x80\x02", "not a whole TorchScript archive"),
        ("a.pt", "byteorder", b"big", "holds big-endian numbers"),
        ("a.pt2", "data/weights/model_weights_config.json", b"[]", "its table of weights is dam"),
    ],
)
def test_hostile_and_damaged_archives_are_reported_in_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, entry: str, data: bytes, line: str
) -> None:
    monkeypatch.chdir(tmp_path)
    make = script if name == "a.pt" else export
    source = make(nn.Sequential(nn.Linear(40, 48)), tmp_path / name)
    path = rewritten(source, tmp_path / f"b{source.suffix}", {entry: data})
    with pytest.raises(CheckpointError, match=line) as caught:
        open_checkpoint(path)
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "owned").exists()


def test_a_weight_beyond_its_storage_is_reported(tmp_path: Path) -> None:
    source = export(nn.Sequential(nn.Linear(40, 48)), tmp_path / "a.pt2")
    path = rewritten(source, tmp_path / "b.pt2", {"data/weights/weight_0": b"1234"})
    with pytest.raises(CheckpointError, match=r"'0\.weight' is damaged: it reaches beyond"):
        open_checkpoint(path).raw("0.weight")
