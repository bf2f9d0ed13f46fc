"""Weights that are a part of something else: of a computed weight, or of a module that has more."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn.utils import parametrizations, parametrize
from torch.nn.utils import prune as masks

import rmtcli
from rmtcli.checkpoint import open_checkpoint
from rmtcli.errors import CheckpointError, LayerError
from rmtcli.keep import Untouched
from rmtcli.layers import Layer, Selection, Skipped, SkipReason, find_layers
from rmtcli.layouts.split import split_module
from rmtcli.planning import Budget


def layers_of(path: Path) -> dict[str, Layer]:
    items = find_layers(open_checkpoint(path))
    return {layer.name: layer for layer in items if isinstance(layer, Layer)}


class Scaled(nn.Module):
    """A parametrization with parameters of its own."""

    def __init__(self) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.ones(40, 1))

    def forward(self, weight: torch.Tensor) -> torch.Tensor:
        return weight * self.scale


def scaled(module: nn.Module) -> nn.Module:
    return parametrize.register_parametrization(module, "weight", Scaled())


def masked(module: nn.Module) -> nn.Module:
    return masks.l1_unstructured(module, "weight", 0.5)


REPARAMETRISED: dict[str, tuple[Callable[[nn.Module], nn.Module], set[str]]] = {
    "weight_norm": (
        parametrizations.weight_norm,
        {"parametrizations.weight.original0", "parametrizations.weight.original1"},
    ),
    "spectral_norm": (parametrizations.spectral_norm, {"parametrizations.weight.original"}),
    "older spectral_norm": (nn.utils.spectral_norm, {"weight_orig"}),
    "older weight_norm": (nn.utils.weight_norm, {"weight_g", "weight_v"}),
    "a mask": (masked, {"weight_orig", "weight_mask"}),
    "of one's own": (
        scaled,
        {"parametrizations.weight.original", "parametrizations.weight.0.scale"},
    ),
}


@pytest.mark.filterwarnings("ignore::FutureWarning")
@pytest.mark.parametrize("module", [nn.Linear(50, 40), nn.Conv1d(20, 40, 5)], ids=["fc", "conv"])
@pytest.mark.parametrize("kind", REPARAMETRISED)
def test_a_weight_that_torch_computes_is_named_and_not_analysed(
    tmp_path: Path, kind: str, module: nn.Module
) -> None:
    if kind == "of one's own" and isinstance(module, nn.Conv1d):
        pytest.skip("it is written for matrices")
    make, parts = REPARAMETRISED[kind]
    fresh = type(module)(50, 40) if isinstance(module, nn.Linear) else nn.Conv1d(20, 40, 5)
    torch.save(nn.Sequential(make(fresh), nn.Linear(40, 40)).state_dict(), tmp_path / "a.pt")
    items = list(find_layers(open_checkpoint(tmp_path / "a.pt"), Selection(convolutions=True)))
    assert {item.name for item in items if isinstance(item, Layer)} == {"1.weight"}
    skipped = {item.name: item.reason for item in items if isinstance(item, Skipped)}
    assert skipped == {f"0.{part}": SkipReason.REPARAMETRISED for part in parts}


def test_a_file_of_computed_weights_alone_is_refused_with_what_to_do(tmp_path: Path) -> None:
    model = nn.Sequential(parametrizations.weight_norm(nn.Linear(50, 40)))
    torch.save(model.state_dict(), tmp_path / "a.pt")
    with pytest.raises(LayerError, match=r"2 part of a weight .*remove_parametrizations"):
        rmtcli.prune(tmp_path / "a.pt")
    parametrize.remove_parametrizations(model[0], "weight")
    torch.save(model.state_dict(), tmp_path / "a.pt")
    assert list(layers_of(tmp_path / "a.pt")) == ["0.weight"]


def test_names_like_those_of_parts_are_not_taken_for_them(tmp_path: Path) -> None:
    names = ["attn.W_v", "attn.W_g", "x.weight_v", "y_orig", "y_mask"]
    torch.save({name: torch.ones(40, 40) for name in names}, tmp_path / "a.pt")
    reasons = {item.reason for item in find_layers(open_checkpoint(tmp_path / "a.pt"))
               if isinstance(item, Skipped)}  # fmt: skip
    assert reasons == {SkipReason.NOT_WEIGHT}


def attention() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.MultiheadAttention(40, 4), nn.Linear(40, 40), nn.Linear(40, 40))


@pytest.mark.parametrize("ending", [".pt", ".safetensors"])
def test_fused_projections_of_attention_are_three_layers(tmp_path: Path, ending: str) -> None:
    model = attention()
    torch.save(model.state_dict(), tmp_path / "a.pt")
    source = tmp_path / f"a{ending}"
    if ending == ".safetensors":
        from safetensors.torch import save_file

        save_file(model.state_dict(), source)
    layers = layers_of(source)
    names = [f"0.in_proj_weight:{part}" for part in "qkv"]
    assert [name for name in layers if "in_proj" in name] == names
    whole = model.state_dict()["0.in_proj_weight"].numpy()
    for i, name in enumerate(names):
        np.testing.assert_array_equal(layers[name].load(), whole[40 * i : 40 * (i + 1)])
    split = rmtcli.prune(source, keep="rank:k=3", dry_run=True)
    fates = {plan.layer.name: plan.untouched for plan in split.layers}
    assert {fates[name] for name in names} == {Untouched.NO_FACTORS}
    target = tmp_path / f"b{ending}"
    report = rmtcli.prune(source, target, keep="rank:k=3", layout="dense")
    assert {plan.layer.name for plan in report.pruned} >= set(names)
    rmtcli.load(model, target)
    for before, after in zip(
        whole.reshape(3, 40, 40), model[0].in_proj_weight.chunk(3), strict=True
    ):
        u, s, vh = np.linalg.svd(before.astype(np.float64))
        best = (u[:, :3] * s[:3]) @ vh[:3]
        np.testing.assert_allclose(after.detach().double().numpy(), best, rtol=0, atol=1e-6)


def test_projections_of_other_widths_are_layers_of_their_own(tmp_path: Path) -> None:
    torch.save(nn.MultiheadAttention(40, 4, kdim=50, vdim=60).state_dict(), tmp_path / "a.pt")
    shapes = {name: layer.shape for name, layer in layers_of(tmp_path / "a.pt").items()}
    assert shapes == {
        "q_proj_weight": (40, 40),
        "k_proj_weight": (40, 50),
        "v_proj_weight": (40, 60),
        "out_proj.weight": (40, 40),
    }
    report = rmtcli.prune(tmp_path / "a.pt", keep="rank:k=3", layout="dense", dry_run=True)
    assert {plan.layer.name for plan in report.pruned} == shapes.keys() - {"out_proj.weight"}


def test_a_module_with_other_parameters_is_not_split(tmp_path: Path) -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(40, 40), nn.Linear(40, 40), nn.Linear(40, 40), nn.Linear(40, 9))
    model[0].register_parameter("lora_A", nn.Parameter(torch.ones(2, 40)))
    model[1].register_buffer("scale", torch.ones(()))
    torch.save(model.state_dict(), tmp_path / "a.pt")
    for options in ({"keep": "rank:k=3"}, {"budget": Budget("90%")}):
        report = rmtcli.prune(tmp_path / "a.pt", dry_run=True, **options)  # type: ignore[arg-type]
        fates = {plan.layer.name: plan.untouched for plan in report.layers}
        assert fates["0.weight"] is fates["1.weight"] is Untouched.OTHERS
        assert fates["2.weight"] is None
    rmtcli.prune(tmp_path / "a.pt", keep="rank:k=3", layout="dense")
    small = rmtcli.load(model, tmp_path / "a.pruned.pt")
    for i in range(3):
        assert torch.linalg.matrix_rank(small[i].weight, rtol=1e-5) == 3  # type: ignore[index]
    assert torch.equal(small[0].lora_A, torch.ones(2, 40))  # type: ignore[index]


def test_a_module_in_memory_with_other_parameters_is_not_replaced(tmp_path: Path) -> None:
    model = nn.Sequential(nn.Linear(40, 40), nn.Linear(40, 9))
    torch.save(model.state_dict(), tmp_path / "a.pt")
    rmtcli.prune(tmp_path / "a.pt", keep="rank:k=3")
    model[0].register_buffer("scale", torch.ones(()))
    assert split_module(model[0], 3, bias=True) is None
    with pytest.raises(
        CheckpointError, match="'0' is a Linear with other parameters, which cannot"
    ):
        rmtcli.load(model, tmp_path / "a.pruned.pt")
