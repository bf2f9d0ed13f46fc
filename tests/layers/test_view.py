"""Tensors that hold a layer's matrix in another form: kernels, gates, experts, in × out."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import nn

import rmtcli
from rmtcli.checkpoint import open_checkpoint
from rmtcli.errors import CheckpointError, LayerError
from rmtcli.layers import Layer, Selection, Skipped, SkipReason, View, find_layers
from rmtcli.planning import Budget
from rmtcli.planning.plan import Untouched
from rmtcli.report.summary import summary
from tests.conftest import model_directory

CONV = Selection(convolutions=True, min_side=0)
CONV_PLAN = Selection(convolutions=True)
GATES = Selection(recurrent=True, min_side=0)


def low_rank(tensor: torch.Tensor, rank: int) -> None:
    """Replace a weight by its best approximation of this rank, so that pruning loses nothing."""
    flat = tensor.detach().reshape(len(tensor), -1).double()
    u, s, vh = torch.linalg.svd(flat, full_matrices=False)
    with torch.no_grad():
        tensor.copy_(((u[:, :rank] * s[:rank]) @ vh[:rank]).reshape(tensor.shape))


@pytest.mark.parametrize("shape", [(6, 10), (6, 5, 2), (6, 5, 3, 3)])
@pytest.mark.parametrize("transposed", [False, True])
def test_a_matrix_is_read_and_stored_again_exactly(
    tmp_path: Path, shape: tuple, transposed: bool
) -> None:
    stored = torch.randn(shape)
    save_file({"a": stored}, tmp_path / "a.safetensors")
    view = View(transposed=transposed)
    matrix = view.matrix(view.read(open_checkpoint(tmp_path / "a.safetensors"), "a"))
    assert matrix.shape == view.shape(shape)
    np.testing.assert_array_equal(view.stored(matrix.astype("f8"), shape), stored.numpy())


@pytest.mark.parametrize(
    ("kind", "kernel", "size"), [(nn.Conv1d, 5, 1), (nn.Conv2d, 3, 2), (nn.Conv3d, 3, 3)]
)
def test_convolutions_are_split_in_two(tmp_path: Path, kind: type, kernel: int, size: int) -> None:
    torch.manual_seed(0)
    options = {"stride": 2, "padding": 1, "dilation": 2, "padding_mode": "reflect"}
    dense = nn.Sequential(kind(8, 24, kernel, **options), kind(24, 4, 1, bias=False))
    low_rank(dense[0].weight, 5)
    torch.save(dense.state_dict(), tmp_path / "a.pt")
    report = rmtcli.prune(tmp_path / "a.pt", keep="rank:k=5", selection=CONV)
    pruned = {plan.layer.name: plan for plan in report.pruned}
    assert list(pruned) == ["0.weight"]
    row = report.to_dict()["layers"][0]
    inner = 8 * kernel**size
    assert row["shape"] == [24, inner]
    assert row["macs_per_position"]["before"] == 24 * inner
    assert row["macs_per_position"]["after"] == 5 * inner + 24 * 5
    split = rmtcli.load(
        nn.Sequential(kind(8, 24, kernel, **options), kind(24, 4, 1, bias=False)),
        tmp_path / "a.pruned.pt",
    )
    assert split[0][0].weight.shape == (5, 8, *(kernel,) * size)
    assert split[0][1].weight.shape == (24, 5, *(1,) * size)
    text = f"{24 * inner:,} → {5 * inner + 24 * 5:,} multiply-adds per output position"
    assert any(line.startswith(text) for label, line in summary(report) if label == "convolutions")
    assert report.plan is not None
    again = rmtcli.prune(tmp_path / "a.pt", plan=report.plan, selection=CONV_PLAN, dry_run=True)
    assert [plan.layer.name for plan in again.pruned] == ["0.weight"]
    x = torch.randn(2, 8, *(12,) * size)
    # The kernels have rank 5, so the only loss is float32's rounding.
    torch.testing.assert_close(split(x), dense(x), rtol=1e-4, atol=1e-5)
    rmtcli.densify(tmp_path / "a.pruned.pt", tmp_path / "b.pt")
    again = torch.load(tmp_path / "b.pt")
    torch.testing.assert_close(again["0.weight"], dense[0].weight.detach(), rtol=0, atol=1e-6)


def test_kernels_are_layers_only_on_request(tmp_path: Path) -> None:
    torch.save({"c.weight": torch.randn(40, 8, 3, 3), "d.weight": torch.randn(40, 1, 3, 3)},
               tmp_path / "a.pt")  # fmt: skip
    checkpoint = open_checkpoint(tmp_path / "a.pt")
    assert {i.reason for i in find_layers(checkpoint) if isinstance(i, Skipped)} == {
        SkipReason.NOT_MATRIX
    }
    kinds = {item.name: item for item in find_layers(checkpoint, CONV)}
    assert kinds["d.weight"] == Skipped("d.weight", SkipReason.ONE_CHANNEL)
    assert isinstance(kinds["c.weight"], Layer)


def test_a_convolution_in_groups_is_refused_when_it_is_loaded(tmp_path: Path) -> None:
    model = nn.Sequential(nn.Conv2d(16, 32, 3, groups=4), nn.Conv2d(32, 2, 1))
    torch.save(model.state_dict(), tmp_path / "a.pt")
    rmtcli.prune(tmp_path / "a.pt", keep="rank:k=2", selection=CONV)
    with pytest.raises(CheckpointError, match="'0' is a Conv2d in 4 groups, which cannot be split"):
        rmtcli.load(model, tmp_path / "a.pruned.pt")


def test_a_directory_holds_factors_of_linear_layers_only(tmp_path: Path) -> None:
    tensors = {"conv.weight": torch.randn(40, 8, 3, 3), "z.weight": torch.randn(40, 40)}
    tensors["zz.weight"] = torch.randn(40, 40)
    model_directory(tmp_path / "m", tensors)
    report = rmtcli.prune(tmp_path / "m", keep="rank:k=2", selection=CONV, dry_run=True)
    fates = {plan.layer.name: plan.untouched for plan in report.layers}
    assert fates == {"conv.weight": Untouched.NO_FACTORS, "z.weight": None, "zz.weight": None}
    rmtcli.prune(tmp_path / "m", keep="rank:k=2", selection=CONV, layout="dense")
    kernels = load_file(tmp_path / "m.pruned/model.safetensors")["conv.weight"]
    assert torch.linalg.matrix_rank(kernels.reshape(40, 72).double(), rtol=1e-5) == 2


@pytest.mark.parametrize(
    ("kind", "gates"),
    [(nn.LSTM, ["input", "forget", "cell", "output"]), (nn.GRU, ["reset", "update", "new"])],
)
def test_gates_are_layers_on_request(tmp_path: Path, kind: type, gates: list[str]) -> None:
    model = kind(50, 40, bidirectional=True)
    torch.save(model.state_dict(), tmp_path / "a.pt")
    checkpoint = open_checkpoint(tmp_path / "a.pt")
    assert {i.reason for i in find_layers(checkpoint) if isinstance(i, Skipped)} == {
        SkipReason.RECURRENT
    }
    layers = {item.name: item for item in find_layers(checkpoint, GATES)}
    whole = [f"weight_{side}_l0{way}" for way in ("", "_reverse") for side in ("ih", "hh")]
    assert sorted(layers) == sorted(f"{name}:{gate}" for name in whole for gate in gates)
    second = layers[f"weight_ih_l0:{gates[1]}"]
    assert isinstance(second, Layer)
    assert second.shape == (40, 50)
    np.testing.assert_array_equal(second.load(), model.weight_ih_l0[40:80].detach().numpy())


def test_gates_are_truncated_in_place_and_split_together(tmp_path: Path) -> None:
    torch.manual_seed(0)
    model = nn.LSTM(50, 40).to(torch.bfloat16)
    torch.save(model.state_dict(), tmp_path / "a.pt")
    split = rmtcli.prune(tmp_path / "a.pt", keep="rank:k=3", selection=GATES, dry_run=True)
    assert [plan.layer.name for plan in split.pruned] == ["weight_ih_l0", "weight_hh_l0"]
    assert [plan.size for plan in split.pruned] == [3 * (160 + 50), 3 * (160 + 40)]
    chosen = Selection(include=["weight_ih_l0"], recurrent=True, min_side=0)
    rmtcli.prune(tmp_path / "a.pt", keep="rank:k=3", selection=chosen, layout="dense")
    after = torch.load(tmp_path / "a.pruned.pt")
    blocks = after["weight_ih_l0"].double().split(40)
    for block, before in zip(blocks, model.weight_ih_l0.detach().double().split(40), strict=True):
        u, s, vh = torch.linalg.svd(before)
        best = (u[:, :3] * s[:3]) @ vh[:3]
        # bfloat16 keeps eight bits: half a unit in the last place is 2^-9 of the value.
        torch.testing.assert_close(block, best, rtol=2**-8, atol=1e-6)
    for name in ("weight_hh_l0", "bias_ih_l0", "bias_hh_l0"):
        assert torch.equal(after[name], model.state_dict()[name])
    model.load_state_dict(after)


def test_gates_are_as_wide_as_the_cell_and_unknown_without_one(tmp_path: Path) -> None:
    state = nn.LSTM(50, 40, proj_size=7).state_dict()
    torch.save(state, tmp_path / "a.pt")
    layers = list(find_layers(open_checkpoint(tmp_path / "a.pt"), GATES))
    shapes = {item.name: item.shape for item in layers if isinstance(item, Layer)}
    assert shapes["weight_hh_l0:output"] == (40, 7)
    assert shapes["weight_hr_l0"] == (7, 40)
    assert len(shapes) == 9
    del state["weight_hr_l0"]
    torch.save(state, tmp_path / "b.pt")
    kinds = set(find_layers(open_checkpoint(tmp_path / "b.pt"), GATES))
    names = ("weight_ih_l0", "weight_hh_l0")
    assert kinds == {Skipped(name, SkipReason.NO_GATES) for name in names}


def test_each_expert_is_a_layer(tmp_path: Path) -> None:
    torch.manual_seed(0)
    name = "layers.0.mlp.experts.down_proj"
    tensors = {name: torch.randn(3, 48, 64), "z.weight": torch.randn(40, 40)}
    save_file(tensors, tmp_path / "a.safetensors")
    report = rmtcli.prune(
        tmp_path / "a.safetensors", keep="rank:k=4", layout="dense", selection=Selection()
    )
    names = [plan.layer.name for plan in report.pruned]
    assert names == [*(f"{name}:{i}" for i in range(3)), "z.weight"]
    after = load_file(tmp_path / "a.pruned.safetensors")[name].double()
    for expert, before in zip(after, tensors[name].double(), strict=True):
        u, s, vh = torch.linalg.svd(before, full_matrices=False)
        best = (u[:, :4] * s[:4]) @ vh[:4]
        torch.testing.assert_close(expert, best, rtol=0, atol=1e-6 * float(best.abs().max()))


def test_budgets_and_plans_leave_layers_alone_that_cannot_be_split(tmp_path: Path) -> None:
    tensors = {"mlp.experts.up": torch.randn(2, 64, 64), "z.weight": torch.randn(64, 64)}
    save_file(tensors, tmp_path / "a.safetensors")
    report = rmtcli.prune(tmp_path / "a.safetensors", budget=Budget("80%"), dry_run=True)
    fates = {plan.layer.name: plan.untouched for plan in report.layers}
    assert fates.pop("z.weight") is None
    assert set(fates.values()) == {Untouched.NO_FACTORS}
    dense = rmtcli.prune(tmp_path / "a.safetensors", keep="rank:k=4", layout="dense", dry_run=True)
    assert dense.plan is not None
    again = rmtcli.prune(tmp_path / "a.safetensors", plan=dense.plan, layout="dense", dry_run=True)
    assert len(again.pruned) == 3
    with pytest.raises(LayerError, match="cannot hold factors: only --layout dense changes it"):
        rmtcli.prune(tmp_path / "a.safetensors", plan=dense.plan, dry_run=True)


def test_tied_names_may_be_missing_if_the_module_ties_them(tmp_path: Path) -> None:
    class Tied(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.embed, self.fc = nn.Embedding(50, 40), nn.Linear(40, 40)
            self.head = nn.Linear(40, 50, bias=False)
            self.head.weight = self.embed.weight

    model = Tied()
    state = {name: value for name, value in model.state_dict().items() if name != "head.weight"}
    save_file(state, tmp_path / "a.safetensors")
    other = rmtcli.load(Tied(), tmp_path / "a.safetensors")
    assert torch.equal(other.get_parameter("head.weight"), model.embed.weight)
