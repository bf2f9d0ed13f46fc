from __future__ import annotations

import copy
from collections import OrderedDict
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

import rmtcli
from rmtcli.errors import CheckpointError, LayerError


class Block(nn.Module):
    """Linear layers inside other modules, one used twice, one without a bias, a norm."""

    def __init__(self) -> None:
        super().__init__()
        self.body = nn.ModuleDict({"up": nn.Linear(60, 80), "down": nn.Linear(80, 60, bias=False)})
        self.norm = nn.BatchNorm1d(60)
        self.head = nn.Linear(60, 10)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        for _ in range(2):
            x = self.norm(x + self.body["down"](torch.relu(self.body["up"](x))))
        return self.head(x)


@pytest.fixture
def block() -> Block:
    torch.manual_seed(0)
    model = Block()
    model(torch.randn(50, 60))  # running statistics that are not the defaults
    return model.eval()


X = torch.randn(20, 60, generator=torch.Generator().manual_seed(1))


def dense_outputs(model: nn.Module, path: Path) -> torch.Tensor:
    """The model's outputs with the truncated products as its weights."""
    rmtcli.prune(path, path.with_name("dense.pt"), keep="rank:k=9", layout="dense")
    dense = copy.deepcopy(model)
    dense.load_state_dict(torch.load(path.with_name("dense.pt")))
    return dense(X)


@pytest.mark.parametrize("ending", [".pt", ".safetensors"])
def test_factored_files_load_into_any_module(tmp_path: Path, block: Block, ending: str) -> None:
    torch.save(block.state_dict(), tmp_path / "a.pt")
    small = tmp_path / f"b{ending}"
    report = rmtcli.prune(tmp_path / "a.pt", small, keep="rank:k=9")
    assert [p.layer.name for p in report.pruned] == ["body.up.weight", "body.down.weight"]
    loaded = rmtcli.load(Block(), small).eval()
    assert isinstance(loaded.body["up"], nn.Sequential)
    assert loaded.body["down"][1].bias is None
    own = (t.numel() for t in loaded.state_dict().values() if t.is_floating_point())
    assert sum(own) == report.output.parameters  # the count of batches is none
    expected = dense_outputs(block, tmp_path / "a.pt")
    torch.testing.assert_close(loaded(X), expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("prefix", ["module.", "_orig_mod.", "model.", "module._orig_mod."])
def test_a_wrappers_prefix_is_ignored(tmp_path: Path, block: Block, prefix: str) -> None:
    state = {f"{prefix}{name}": value for name, value in block.state_dict().items()}
    torch.save({"state_dict": state | {"criterion.weight": torch.ones(3)}}, tmp_path / "a.ckpt")
    rmtcli.prune(tmp_path / "a.ckpt", tmp_path / "b.ckpt", keep="rank:k=9")
    assert f"{prefix}body.up.0.weight" in torch.load(tmp_path / "b.ckpt")["state_dict"]
    torch.save(block.state_dict(), tmp_path / "a.pt")
    expected = dense_outputs(block, tmp_path / "a.pt")
    loaded = rmtcli.load(Block(), tmp_path / "b.ckpt").eval()
    torch.testing.assert_close(loaded(X), expected, rtol=1e-5, atol=1e-5)


def test_a_sequential_network_loads_with_plain_torch(tmp_path: Path) -> None:
    torch.manual_seed(0)
    dense = nn.Sequential(OrderedDict(a=nn.Linear(60, 80), r=nn.ReLU(), b=nn.Linear(80, 10)))
    torch.save(dense.state_dict(), tmp_path / "a.pt")
    rmtcli.prune(tmp_path / "a.pt", tmp_path / "b.pt", keep="rank:k=9")
    split = nn.Sequential(nn.Linear(60, 9, bias=False), nn.Linear(9, 80))
    plain = nn.Sequential(OrderedDict(a=split, r=nn.ReLU(), b=nn.Linear(80, 10)))
    plain.load_state_dict(torch.load(tmp_path / "b.pt", weights_only=True))
    loaded = rmtcli.load(dense, tmp_path / "b.pt")
    assert torch.equal(plain(X), loaded(X))


def test_densify_restores_names_and_shapes(tmp_path: Path, block: Block) -> None:
    torch.save(block.state_dict(), tmp_path / "a.pt")
    rmtcli.prune(tmp_path / "a.pt", tmp_path / "b.pt", keep="rank:k=9")
    report = rmtcli.densify(tmp_path / "b.pt", tmp_path / "c.pt")
    state = torch.load(tmp_path / "c.pt")
    assert list(state) == list(block.state_dict())
    assert report.output.parameters == report.source.parameters + 2 * (60 * 80 - 9 * 140)
    dense = Block().eval()
    dense.load_state_dict(state)
    loaded = rmtcli.load(Block(), tmp_path / "b.pt").eval()
    torch.testing.assert_close(dense(X), loaded(X), rtol=1e-5, atol=1e-5)
    with pytest.raises(LayerError, match="nothing to undo"):
        rmtcli.densify(tmp_path / "c.pt", tmp_path / "d.pt")


def test_pruning_a_truncated_file_again_finds_its_exact_rank(tmp_path: Path, block: Block) -> None:
    torch.save(block.state_dict(), tmp_path / "a.pt")
    rmtcli.prune(tmp_path / "a.pt", tmp_path / "b.pt", keep="rank:k=9", layout="dense")
    report = rmtcli.prune(tmp_path / "b.pt", tmp_path / "c.pt", keep="auto")
    assert [plan.rank for plan in report.pruned] == [9, 9]


def test_files_that_do_not_fit_the_module_are_refused(tmp_path: Path, block: Block) -> None:
    torch.save(block.state_dict(), tmp_path / "a.pt")
    rmtcli.prune(tmp_path / "a.pt", tmp_path / "b.pt", keep="rank:k=9")
    with pytest.raises(
        CheckpointError, match=r"does not fit Sequential: (Missing|Unexpected)"
    ) as e:
        rmtcli.load(nn.Sequential(OrderedDict(a=nn.Conv1d(3, 3, 1))), tmp_path / "b.pt")
    assert "\n" not in str(e.value)
    with pytest.raises(CheckpointError, match="under several names: body"):
        rmtcli.load(nn.Linear(3, 3), tmp_path / "b.pt")
    other = Block()
    other.head = nn.Linear(60, 11)
    with pytest.raises(CheckpointError, match=r"size mismatch for head\.weight"):
        rmtcli.load(other, tmp_path / "b.pt")


def test_a_bare_linear_cannot_be_split_in_place(tmp_path: Path) -> None:
    layer = nn.Linear(60, 80)
    torch.save(layer.state_dict(), tmp_path / "a.pt")
    rmtcli.prune(
        tmp_path / "a.pt",
        tmp_path / "b.pt",
        keep="rank:k=9",
        selection=rmtcli.Selection(include=["weight"]),
    )
    assert list(torch.load(tmp_path / "b.pt")) == ["0.weight", "1.weight", "1.bias"]
    with pytest.raises(CheckpointError, match="cannot be split in place"):
        rmtcli.load(layer, tmp_path / "b.pt")
    rmtcli.densify(tmp_path / "b.pt", tmp_path / "c.pt")
    layer.load_state_dict(torch.load(tmp_path / "c.pt"))


class Scaled(nn.Linear):
    """A linear layer whose forward is not that of its base class."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return nn.functional.linear(x, 0.1 * self.weight, self.bias)


class Standardized(nn.Conv2d):
    """A convolution that changes its kernel before it is used."""

    def _conv_forward(self, x: torch.Tensor, weight: torch.Tensor, bias: Any) -> torch.Tensor:
        return super()._conv_forward(x, weight - weight.mean(), bias)


class Named(nn.Linear):
    """A linear layer with another name."""


@pytest.mark.parametrize("layer", [Scaled(60, 80), Standardized(60, 80, 1)], ids=["linear", "conv"])
def test_a_class_with_a_forward_of_its_own_is_not_replaced(
    tmp_path: Path, layer: nn.Module
) -> None:
    model = nn.Sequential(layer, nn.ReLU(), nn.Flatten(), nn.Linear(80, 10))
    torch.save(model.state_dict(), tmp_path / "a.pt")
    selection = rmtcli.Selection(convolutions=True)
    rmtcli.prune(tmp_path / "a.pt", tmp_path / "b.pt", keep="rank:k=9", selection=selection)
    line = (
        rf"'0' is a {type(layer).__name__} with a forward of its own, which cannot be split: "
        r'run rmtcli densify, or prune with Selection\(exclude="0\.weight"\)$'
    )
    with pytest.raises(CheckpointError, match=line):
        rmtcli.load(model, tmp_path / "b.pt")
    assert model[0] is layer
    rmtcli.densify(tmp_path / "b.pt", tmp_path / "c.pt")
    rmtcli.load(model, tmp_path / "c.pt")


def test_a_forward_of_one_module_is_not_replaced(tmp_path: Path) -> None:
    layer = nn.Linear(60, 80)
    model = nn.Sequential(layer, nn.ReLU(), nn.Linear(80, 10))
    torch.save(model.state_dict(), tmp_path / "a.pt")
    rmtcli.prune(tmp_path / "a.pt", tmp_path / "b.pt", keep="rank:k=9")
    whole = layer.forward
    layer.forward = lambda x: 2 * whole(x)  # type: ignore[method-assign, assignment]
    with pytest.raises(CheckpointError, match="'0' is a Linear with a forward of its own"):
        rmtcli.load(model, tmp_path / "b.pt")


@pytest.mark.parametrize("layout", ["factored", "pivoted"])
def test_hooks_run_with_the_modules_in_place(tmp_path: Path, layout: str) -> None:
    model = nn.Sequential(nn.Linear(60, 80), nn.ReLU(), nn.Linear(80, 10))
    torch.save(model.state_dict(), tmp_path / "a.pt")
    rmtcli.prune(tmp_path / "a.pt", tmp_path / "b.pt", keep="rank:k=9", layout=layout)
    seen: list[torch.Tensor] = []
    model[0].register_forward_pre_hook(lambda _, args: (-args[0],))
    model[0].register_forward_hook(lambda module, args, output: 2 * output)
    model[0].register_full_backward_hook(lambda module, args, output: seen.append(output[0]))
    expected = dense_outputs(model, tmp_path / "a.pt")
    loaded = rmtcli.load(model, tmp_path / "b.pt")
    torch.testing.assert_close(loaded(X), expected, rtol=1e-5, atol=1e-5)
    loaded(X.clone().requires_grad_()).sum().backward()
    assert seen


def test_a_subclass_that_computes_as_its_base_class_is_split(tmp_path: Path) -> None:
    model = nn.Sequential(Named(60, 80), nn.ReLU(), nn.Linear(80, 10))
    torch.save(model.state_dict(), tmp_path / "a.pt")
    rmtcli.prune(tmp_path / "a.pt", tmp_path / "b.pt", keep="rank:k=9")
    expected = dense_outputs(model, tmp_path / "a.pt")
    loaded = rmtcli.load(model, tmp_path / "b.pt")
    torch.testing.assert_close(loaded(X), expected, rtol=1e-5, atol=1e-5)


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.net = nn.Sequential(nn.Linear(60, 80), nn.ReLU(), nn.Linear(80, 10))


def test_a_sequential_under_any_name_is_found(tmp_path: Path) -> None:
    """Lightning modules hold their network under an attribute of any name."""
    torch.manual_seed(0)
    module = Net()
    torch.save({"state_dict": module.state_dict()}, tmp_path / "a.ckpt")
    rmtcli.prune(tmp_path / "a.ckpt", tmp_path / "b.ckpt", keep="rank:k=9")
    inner = rmtcli.load(Net().net, tmp_path / "b.ckpt")
    whole = rmtcli.load(Net(), tmp_path / "b.ckpt")
    assert torch.equal(inner(X), whole.net(X))


def test_modules_that_read_a_weight_get_the_product(tmp_path: Path) -> None:
    from tests.evaluation.factories import encoder

    torch.manual_seed(0)
    model = encoder()
    torch.save(model.state_dict(), tmp_path / "a.pt")
    rmtcli.prune(tmp_path / "a.pt", tmp_path / "b.pt", keep="rank:k=20")
    rmtcli.densify(tmp_path / "b.pt", tmp_path / "c.pt")
    x = torch.randn(5, 192)
    with torch.no_grad():
        split, dense = (rmtcli.load(encoder(), tmp_path / n)(x) for n in ("b.pt", "c.pt"))
    torch.testing.assert_close(split, dense, rtol=1e-4, atol=1e-5)


def test_a_module_under_two_names_stays_one_module(tmp_path: Path) -> None:
    class Shared(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a = nn.Linear(60, 60)
            self.b = self.a
            self.head = nn.Linear(60, 10)

    torch.save(Shared().state_dict(), tmp_path / "a.pt")
    rmtcli.prune(tmp_path / "a.pt", tmp_path / "b.pt", keep="rank:k=9")
    loaded = rmtcli.load(Shared(), tmp_path / "b.pt")
    assert isinstance(loaded.a, nn.Sequential)
    assert loaded.a is loaded.b
    rmtcli.densify(tmp_path / "b.pt", tmp_path / "c.pt")
    state = torch.load(tmp_path / "c.pt")
    for end in ("weight", "bias"):
        assert state[f"a.{end}"].data_ptr() == state[f"b.{end}"].data_ptr()


def test_densify_refuses_a_file_that_was_changed(tmp_path: Path, block: Block) -> None:
    torch.save(block.state_dict(), tmp_path / "a.pt")
    rmtcli.prune(tmp_path / "a.pt", tmp_path / "b.pt", keep="rank:k=9")
    changes = {"missing": None, "rank": torch.ones(80, 8), "type": torch.ones(80, 9).to(torch.int8)}
    for name, value in changes.items():
        state = torch.load(tmp_path / "b.pt")
        state["body.up.1.weight"] = value
        if value is None:
            del state["body.up.1.weight"]
        torch.save(state, tmp_path / f"{name}.pt")
        with pytest.raises(
            LayerError, match=r"the factors of 'body\.up' are missing or do not fit"
        ):
            rmtcli.densify(tmp_path / f"{name}.pt", tmp_path / "c.pt")
        assert not (tmp_path / "c.pt").exists()


@pytest.mark.parametrize(
    "wrap",
    [
        lambda state: {f"module.{name}": value for name, value in state.items()},
        lambda state: {f"_fsdp_wrapped_module.{name}": value for name, value in state.items()},
        lambda state: {"module": {f"module.{n}": v for n, v in state.items()}, "dp_world_size": 2},
        lambda state: {"state_dict": {f"model.{n}": v for n, v in state.items()}, "epoch": 3},
    ],
    ids=["DataParallel", "FSDP", "DeepSpeed", "Lightning"],
)
def test_files_written_by_trainers_are_read_and_loaded(
    tmp_path: Path, block: Block, wrap: Any
) -> None:
    torch.save(wrap(block.state_dict()), tmp_path / "a.ckpt")
    report = rmtcli.prune(tmp_path / "a.ckpt", keep="rank:k=9")
    assert len(report.pruned) == 2
    loaded = rmtcli.load(Block(), tmp_path / "a.pruned.ckpt").eval()
    torch.save(block.state_dict(), tmp_path / "a.pt")
    expected = dense_outputs(block, tmp_path / "a.pt")
    torch.testing.assert_close(loaded(X), expected, rtol=1e-5, atol=1e-5)
