"""Factored layers in vLLM's own linear layers.

They need vLLM, which the development environment lacks: its Python code is enough, as in
``pip install --no-deps vllm`` with the packages that it then misses.
"""

from __future__ import annotations

import pkgutil
import tomllib
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from tests.conftest import ROOT

linears: Any = pytest.importorskip("vllm.model_executor.layers.linear")
plugin: Any = pytest.importorskip("rmtcli.integrations.vllm")

NAMES = {"qkv_proj": ["q_proj", "k_proj", "v_proj"], "gate_up_proj": ["gate_proj", "up_proj"]}
#: Module in the file -> (outputs, rank or None).
ATTENTION: dict[str, tuple[int, int | None]] = {
    "q_proj": (32, 5),
    "k_proj": (16, None),
    "v_proj": (16, 3),
}
MLP: dict[str, tuple[int, int | None]] = {"gate_proj": (48, 4), "up_proj": (48, 7)}
INPUTS = 32


def config(parts: dict[str, tuple[int, int | None]], **entries: object) -> Any:
    ranks = {f"a.{name}": rank for name, (_, rank) in parts.items() if rank}
    result = plugin.FactoredConfig.from_config({"ranks": ranks, **entries})
    result.packed_modules_mapping = NAMES
    return result


def tensors(parts: dict[str, tuple[int, int | None]], *, bias: bool) -> dict[str, Tensor]:
    """What a directory holds of a layer's parts."""
    result: dict[str, Tensor] = {}
    for i, (name, (outputs, rank)) in enumerate(parts.items()):
        draw = torch.Generator().manual_seed(i)
        shapes = {"weight": (outputs, INPUTS)}
        if rank:
            shapes = {"0.weight": (rank, INPUTS), "1.weight": (outputs, rank)}
        shapes |= {"1.bias" if rank else "bias": (outputs,)} if bias else {}
        result |= {f"{name}.{x}": torch.randn(s, generator=draw) for x, s in shapes.items()}
    return result


def product(held: dict[str, Tensor], name: str, x: Tensor) -> Tensor:
    """What a part of the layer computes."""
    weight = held.get(f"{name}.weight")
    weight = held[f"{name}.1.weight"] @ held[f"{name}.0.weight"] if weight is None else weight
    bias = held.get(f"{name}.bias", held.get(f"{name}.1.bias"))
    return x @ weight.T + (0 if bias is None else bias)


def load(layer: nn.Module, held: dict[str, Tensor], shards: dict[str, str | int]) -> None:
    """Give each parameter its tensors, as vLLM's models do."""
    for name, value in held.items():
        module, _, leaf = name.partition(".")
        parameter: Any = layer.get_parameter(leaf)
        part = (shards[module],) if module in shards else ()
        parameter.weight_loader(parameter, value, *part)
    layer.quant_method.process_weights_after_loading(layer)  # type: ignore[union-attr, operator]


def joined(kind: str, *, bias: bool, **entries: object) -> tuple[Any, Any, dict[str, str | int]]:
    """A joined layer of vLLM, its parts in the file, and what vLLM calls them."""
    options = {"bias": bias, "disable_tp": True, "params_dtype": torch.float32}
    if kind == "qkv_proj":
        settings = config(ATTENTION, **entries)
        layer = linears.QKVParallelLinear(
            INPUTS, 8, 4, 2, quant_config=settings, prefix="a.qkv_proj", **options
        )
        return layer, ATTENTION, {"q_proj": "q", "k_proj": "k", "v_proj": "v"}
    layer = linears.MergedColumnParallelLinear(
        INPUTS, [48, 48], quant_config=config(MLP), prefix="a.gate_up_proj", **options
    )
    return layer, MLP, {"gate_proj": 0, "up_proj": 1}


@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize("kind", NAMES)
def test_joined_projections_compute_as_their_parts(kind: str, bias: bool) -> None:
    layer, parts, shards = joined(kind, bias=bias)
    held = tensors(parts, bias=bias)
    load(layer, held, shards)
    x = torch.randn(3, 7, INPUTS)
    expected = torch.cat([product(held, name, x) for name in parts], -1)
    torch.testing.assert_close(layer(x)[0], expected)
    torch.testing.assert_close(
        torch.compile(layer, backend="eager", fullgraph=True)(x)[0], expected
    )


@pytest.mark.parametrize("name", ["RowParallelLinear", "ColumnParallelLinear", "ReplicatedLinear"])
def test_a_single_layer(name: str) -> None:
    parts: dict[str, tuple[int, int | None]] = {"o_proj": (24, 6)}
    options = {"bias": True, "disable_tp": True, "params_dtype": torch.float32}
    layer = getattr(linears, name)(
        INPUTS, 24, quant_config=config(parts), prefix="a.o_proj", **options
    )
    held = tensors(parts, bias=True)
    load(layer, held, {})
    x = torch.randn(5, INPUTS)
    torch.testing.assert_close(layer(x)[0], product(held, "o_proj", x))


def test_dense_layers_and_other_modules_stay_vllms_own() -> None:
    layer, settings = joined("gate_up_proj", bias=False)[0], config(MLP)
    dense = settings.get_quant_method(layer, "a.other")
    assert type(dense) is linears.UnquantizedLinearMethod
    assert settings.get_quant_method(nn.Identity(), "a.attn") is None
    with pytest.raises(ValueError, match="does not open the factors of 'a'"):
        plugin.FactoredConfig({"a.experts.0.w1": 2}).get_quant_method(nn.Identity(), "a")


def test_what_is_missing_is_named() -> None:
    layer, parts, shards = joined("gate_up_proj", bias=True)
    held = tensors(parts, bias=True)
    del held["up_proj.1.bias"]
    with pytest.raises(ValueError, match=r"'a\.gate_up_proj': the bias of part 1 was not read"):
        load(layer, held, shards)
    held["up_proj.0.weight"] = torch.ones(6, INPUTS)
    with pytest.raises(ValueError, match="the right of part 1 has the shape"):
        load(layer, held, shards)


def test_other_layouts_and_divided_layers_are_refused() -> None:
    with pytest.raises(ValueError, match="this model has pivoted ones: prune with"):
        config(MLP, pivoted={"a": 3})
    method = plugin.FactoredLinearMethod([3])
    with pytest.raises(ValueError, match="need --tensor-parallel-size 1"):
        method.create_weights(SimpleNamespace(), 8, [8], 16, 8, torch.float32)


def test_vllm_knows_the_method() -> None:
    from vllm.model_executor.layers.quantization import get_quantization_config

    plugin.register()
    plugin.register()  # vLLM loads plug-ins several times
    assert get_quantization_config("rmtcli") is plugin.FactoredConfig
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    target = project["entry-points"]["vllm.general_plugins"]["rmtcli"]
    assert pkgutil.resolve_name(target) is plugin.register
