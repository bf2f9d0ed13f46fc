"""``--model`` with a class that ignores tensors of the file, or loads it in a way of its own."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

import rmtcli
from rmtcli.errors import CheckpointError
from tests.conftest import planted

MODULE = """
from torch import nn

class Net(nn.Sequential):
    def __init__(self):
        super().__init__(nn.Linear(48, 64), nn.ReLU(), nn.Linear(64, 40))

class Lenient(Net):
    def load_state_dict(self, state, strict=False):
        return super().load_state_dict(state, strict=False)

class Silent(Net):
    def load_state_dict(self, state):
        super().load_state_dict(state, strict=False)
"""


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A working folder with a module of classes, inputs, and a file with tensors of no class."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "own_class.py").write_text(MODULE)
    np.savez("x.npz", inputs=np.random.default_rng(0).standard_normal((300, 48)).astype("f4"))
    torch.save({"aux.weight": weight(64, 48), "steps": torch.ones(1)} | state(), "a.pt")
    torch.save(state(), "plain.pt")
    yield tmp_path
    sys.modules.pop("own_class", None)


def weight(rows: int, columns: int) -> torch.Tensor:
    return torch.from_numpy(planted((rows, columns), 3, times=4)).float()


def state() -> dict[str, torch.Tensor]:
    torch.manual_seed(0)
    network = nn.Sequential(nn.Linear(48, 64), nn.ReLU(), nn.Linear(64, 40))
    return network.state_dict() | {"0.weight": weight(64, 48)}


def evaluation(name: str) -> rmtcli.Evaluation:
    return rmtcli.Evaluation("x.npz", model=f"own_class:{name}")


def pruned(name: str, source: str = "a.pt") -> rmtcli.Report:
    only = rmtcli.Selection(include=("*.weight",))
    target = f"{name}.pt"
    return rmtcli.prune(
        source, target, keep="rank:k=9", selection=only, evaluation=evaluation(name), force=True
    )


def test_tensors_that_the_class_has_no_use_for_are_named(folder: Path) -> None:
    note = "own_class:Net has no use for aux.weight, steps: they stay in the file"
    report = pruned("Net")
    assert [plan.layer.name for plan in report.pruned] == ["aux.weight", "0.weight"]
    assert sum(text.startswith(note) for text in report.notes) == 1
    assert {"steps", "aux.0.weight"} <= torch.load("Net.pt").keys()
    scored = rmtcli.evaluate("a.pt", evaluation=evaluation("Net"), against="a.pt")
    assert scored.notes[0].startswith(note)
    assert not [text for text in pruned("Net", "plain.pt").notes if "own_class" in text]


def test_a_class_that_may_not_be_strict_is_warned_of(folder: Path) -> None:
    for name in ("Lenient", "Silent"):
        (note,) = [text for text in pruned(name, "plain.pt").notes if "own_class" in text]
        assert note.startswith(f"own_class:{name} has a load_state_dict of its own: if it is not")


@pytest.mark.parametrize("name", ["Net", "Lenient", "Silent"])
def test_a_tensor_that_the_file_lacks_is_refused_whatever_the_class_accepts(
    folder: Path, name: str
) -> None:
    tensors = state()
    del tensors["2.bias"]
    torch.save(tensors, "short.pt")
    expected = f'does not fit {name}: Missing key.s. in state_dict: "2.bias"'
    with pytest.raises(CheckpointError, match=expected):
        rmtcli.evaluate("short.pt", evaluation=evaluation(name))


def test_load_refuses_tensors_that_the_module_does_not_have(folder: Path) -> None:
    net: Any = nn.Sequential(nn.Linear(48, 64), nn.ReLU(), nn.Linear(64, 40))
    expected = 'Unexpected key.s. in state_dict: "aux.weight", "steps"'
    with pytest.raises(CheckpointError, match=expected):
        rmtcli.load(net, "a.pt")
