"""Which of the state dicts in a file is read, and what is said where that is not evident."""

from __future__ import annotations

import pickle
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import typer
from safetensors.torch import save_file
from torch import nn

import rmtcli
from rmtcli.checkpoint import open_checkpoint
from rmtcli.checkpoint.torch.file import TorchFile
from rmtcli.checkpoint.torch.plain import PlainTorchFile
from rmtcli.cli import main
from rmtcli.errors import CheckpointError, RmtcliError, UsageError


def network(seed: int, name: str = "fc") -> dict[str, torch.Tensor]:
    """A state dict with one layer that ``auto`` prunes, and a head."""
    torch.manual_seed(seed)
    signal = 3.0 * torch.randn(64, 1) @ torch.randn(1, 80)
    weight = torch.randn(64, 80) / 8 + signal
    return {
        f"{name}.weight": weight,
        f"{name}.bias": torch.zeros(64),
        "head.weight": weight[:9].T.contiguous(),
    }


def gan() -> dict[str, Any]:
    return {"generator": network(1), "discriminator": network(2, "conv"), "epoch": 3}


ADAM = {"state": {"fc.weight": {"exp_avg": torch.ones(4, 4)}}, "param_groups": []}

#: The tree, the user's key, and the keys that lead to the state dict.
EVIDENT: dict[str, tuple[Callable[[], Any], str | None, tuple[str, ...]]] = {
    "model before its average": (
        lambda: {"model_ema": network(0), "model": network(1)},
        None,
        ("model",),
    ),
    "the only one": (lambda: {"params_ema": network(0), "epoch": 1}, None, ("params_ema",)),
    "an optimizer beside": (lambda: {"ema": network(0), "opt": ADAM}, None, ("ema",)),
    "a loss beside": (lambda: {"ema": network(0), "loss": torch.tensor(1.0)}, None, ("ema",)),
    "named": (lambda: {"model": network(0), "ema": network(1)}, "ema", ("ema",)),
    "a path": (lambda: {"state": gan()}, "state.generator", ("state", "generator")),
    "a key with a dot": (lambda: {"a.b": gan()}, "a.b.generator", ("a.b", "generator")),
    "above it": (
        lambda: {"g": {"state_dict": network(0), "step": 1}, "d": network(1)},
        "g",
        ("g", "state_dict"),
    ),
}


@pytest.mark.parametrize("kind", EVIDENT)
def test_the_state_dict_is_the_documented_one_the_only_one_or_the_one_named(
    tmp_path: Path, kind: str
) -> None:
    make, key, where = EVIDENT[kind]
    tree = make()
    torch.save(tree, tmp_path / "a.pt")
    assert TorchFile(tmp_path / "a.pt", key).where == where
    for step in where:
        tree = tree[step]
    checkpoint = open_checkpoint(tmp_path / "a.pt", key=key)
    assert list(checkpoint.infos) == list(tree)
    again = pickle.loads(pickle.dumps(checkpoint))  # as for another process
    assert {name: again.raw(name).data.tobytes() for name in again.infos} == {
        name: value.numpy().tobytes() for name, value in tree.items()
    }


REFUSED: dict[str, tuple[Callable[[], Any], str | None, type[RmtcliError], str]] = {
    "two networks": (
        gan,
        None,
        UsageError,
        "holds several state dicts, name one with key=: 'generator', 'discriminator'",
    ),
    "a loss beside two": (
        lambda: {"a": network(0), "b": network(1), "loss": torch.tensor(0.3)},
        None,
        UsageError,
        "holds several state dicts, name one with key=: 'a', 'b'",
    ),
    "two inside": (
        lambda: {"model": {"g": network(0), "d": network(1)}},
        None,
        UsageError,
        "holds several state dicts, name one with key=: 'model.g', 'model.d'",
    ),
    "an unknown name": (
        gan,
        "generater",
        UsageError,
        "holds no state dict under 'generater': 'generator', 'discriminator'",
    ),
    "not a state dict": (
        lambda: {"model": network(0), "ema": network(1)} | {"opt": ADAM},
        "opt",
        UsageError,
        "holds no state dict under 'opt': 'model', 'ema'",
    ),
    "a tensor": (
        lambda: network(0),
        "fc.weight",
        UsageError,
        "holds no state dict under 'fc.weight': it holds only one, or none: leave out key=",
    ),
    "many": (
        lambda: {f"n{i}": network(i) for i in range(12)},
        None,
        UsageError,
        "holds several state dicts, name one with key=: "
        + ", ".join(f"'n{i}'" for i in range(10))
        + " and 2 more",
    ),
    "no tensor": (
        lambda: {"epoch": 3},
        None,
        CheckpointError,
        "holds no state dict: save model.state_dict(), bare or under one of the keys "
        "state_dict, model_state_dict, model, module, model_state, net",
    ),
}


@pytest.mark.parametrize("kind", REFUSED)
def test_where_it_is_not_evident_the_choices_are_listed(tmp_path: Path, kind: str) -> None:
    make, key, error, message = REFUSED[kind]
    torch.save(make(), tmp_path / "a.pt")
    with pytest.raises(error) as caught:
        open_checkpoint(tmp_path / "a.pt", key=key)
    assert str(caught.value) == f"{tmp_path / 'a.pt'}: {message}"


def test_a_wide_tree_that_holds_itself_is_searched_once(tmp_path: Path) -> None:
    tree: dict[str, Any] = {}
    tree |= {f"k{i}": tree for i in range(3000)}
    torch.save(tree, tmp_path / "a.pt")
    with pytest.raises(CheckpointError, match="holds no state dict: save"):
        open_checkpoint(tmp_path / "a.pt")


def test_files_of_one_network_take_no_key(tmp_path: Path) -> None:
    save_file(network(0), tmp_path / "a.safetensors")
    with warnings.catch_warnings(action="ignore"):
        traced = torch.jit.trace(nn.Linear(4, 4), torch.ones(1, 4))  # type: ignore[no-untyped-call]
        torch.jit.save(traced, tmp_path / "b.pt")  # type: ignore[no-untyped-call]
    for name, form in [("a.safetensors", "safetensors file"), ("b.pt", "TorchScript archive")]:
        with pytest.raises(UsageError, match=f"a {form} holds one network: leave out key="):
            open_checkpoint(tmp_path / name, key="ema")
    with pytest.raises(UsageError, match="a directory holds one network: leave out key="):
        open_checkpoint(tmp_path, key="ema")


@pytest.mark.parametrize("ending", [".pt", ".safetensors"])
def test_one_of_two_networks_is_pruned_and_the_other_kept(tmp_path: Path, ending: str) -> None:
    source, target = tmp_path / "gan.pt", tmp_path / f"small{ending}"
    torch.save(gan(), source)
    assert isinstance(open_checkpoint(source, key="generator"), PlainTorchFile)
    report = rmtcli.prune(source, target, key="generator")
    assert [plan.layer.name for plan in report.pruned] == ["fc.weight"]
    key, words = ("generator", "copied unchanged") if ending == ".pt" else (None, "not carried")
    assert any(n.startswith(words) and "discriminator, epoch" in n for n in report.notes)
    if key:
        written = torch.load(target)
        assert list(written) == ["generator", "discriminator", "epoch"]
        for name, value in gan()["discriminator"].items():
            assert torch.equal(written["discriminator"][name], value)
    model = nn.Module()
    model.fc, model.head = nn.Linear(80, 64), nn.Linear(9, 80, bias=False)
    rmtcli.load(model, target, key=key)
    assert model.fc.in_features == 80
    assert isinstance(model.fc, nn.Sequential)
    rmtcli.densify(target, tmp_path / f"dense{ending}", key=key)
    dense = open_checkpoint(tmp_path / f"dense{ending}", key=key)
    assert list(dense.infos) == sorted(network(1)) if key is None else list(network(1))


def test_commands_take_the_key_and_refuse_in_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    torch.save(gan(), tmp_path / "gan.pt")
    app: Any = typer.main.get_command(main.app)
    for command in (["analyze"], ["info"], ["prune", "--dry-run"]):
        options = [str(tmp_path / "gan.pt"), "--key", "discriminator", "--json"]
        app([*command, *options], standalone_mode=False)
        assert "conv" in capsys.readouterr().out or command == ["info"]
    monkeypatch.setattr("sys.argv", ["rmtcli", "analyze", str(tmp_path / "gan.pt")])
    with pytest.raises(SystemExit) as ended:
        main.main()
    assert ended.value.code == 2
    assert capsys.readouterr().err.count("\n") == 1
