"""Weights in the forms of other tools are named, with what turns them back into weights."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from rmtcli.checkpoint import open_checkpoint
from rmtcli.errors import LayerError
from rmtcli.layers import Layer, SkipReason, find_layers
from rmtcli.pipeline.stages import layers_of

MATRIX = torch.ones(64, 48)
PACKED = torch.ones(64, 6, dtype=torch.int32)


def named(*names: str, value: torch.Tensor = MATRIX) -> dict[str, torch.Tensor]:
    return {name: value.clone() for name in names}


#: what wrote the file -> (its state dict, what each tensor is, those that are not listed left out)
FILES = {
    "peft": (
        named("base_model.model.q_proj.lora_A.weight", "base_model.model.q_proj.lora_B.weight"),
        SkipReason.ADAPTER,
    ),
    "peft with an adapter's name": (named("q.lora_A.default.weight"), SkipReason.ADAPTER),
    "kohya": (
        named("lora_unet_a_to_q.lora_down.weight", "lora_unet_a_to_q.lora_up.weight"),
        SkipReason.ADAPTER,
    ),
    "diffusers": (
        named("a.to_q.lora.down.weight", "b.processor.to_q_lora.up.weight"),
        SkipReason.ADAPTER,
    ),
    "LoHa": (named("a.hada_w1_a", "a.hada_w2_b"), SkipReason.ADAPTER),
    "LoKr": (named("a.lokr_w1", "a.lokr_w2_a"), SkipReason.ADAPTER),
    "GPTQ": (
        named("a.qweight", "a.qzeros", value=PACKED) | named("a.scales"),
        SkipReason.PACKED,
    ),
    "compressed-tensors": (named("a.weight_packed", value=PACKED), SkipReason.PACKED),
    "bitsandbytes in 8 bits": (
        named("a.weight", value=PACKED.to(torch.int8)) | {"a.SCB": torch.ones(64)},
        SkipReason.PACKED,
    ),
    "bitsandbytes in 4 bits": (
        named("a.weight", value=PACKED.to(torch.uint8)) | {"a.weight.absmax": torch.ones(64)},
        SkipReason.PACKED,
    ),
    "compressed-tensors in 8 bits": (
        named("a.weight", value=PACKED.to(torch.int8)) | {"a.weight_scale": torch.ones(64, 1)},
        SkipReason.PACKED,
    ),
    "fp8 by blocks": (
        {
            "a.weight": torch.ones(64, 40).to(torch.float8_e4m3fn),
            "a.weight_scale_inv": torch.ones(1, 1),
        },
        SkipReason.PACKED,
    ),
    "FSDP": (
        named("_fsdp_wrapped_module._flat_param", "flat_param_0", value=torch.ones(99)),
        SkipReason.FLAT,
    ),
    "ZeRO": (named("a.weight", "a.bias", value=torch.ones(0)), SkipReason.PARTITIONED),
}


@pytest.mark.parametrize("name", FILES)
def test_weights_of_other_tools_are_named(tmp_path: Path, name: str) -> None:
    state, reason = FILES[name]
    torch.save(state, tmp_path / "a.pt")
    checkpoint = open_checkpoint(tmp_path / "a.pt")
    items = list(find_layers(checkpoint))
    assert items
    assert {getattr(item, "reason", None) for item in items} == {reason}
    with pytest.raises(LayerError) as caught:
        layers_of(checkpoint, None)
    assert str(caught.value).startswith(f"{tmp_path / 'a.pt'}: no fully connected layers among ")
    assert str(caught.value).endswith(f"; {len(items)} {reason.value}")


def test_torchs_own_quantised_modules_are_named(
    tmp_path: Path, recwarn: pytest.WarningsRecorder
) -> None:
    from torch.ao.quantization import quantize_dynamic

    dense = torch.nn.Sequential(torch.nn.Linear(48, 64), torch.nn.Linear(64, 10))
    quantize: Any = quantize_dynamic
    torch.save(quantize(dense, {torch.nn.Linear}).state_dict(), tmp_path / "q.pt")
    recwarn.clear()
    with pytest.raises(LayerError, match=f"; 2 {SkipReason.PACKED.value[:20]}"):
        layers_of(open_checkpoint(tmp_path / "q.pt"), None)
    assert not recwarn.list


def test_layers_beside_them_remain_layers(tmp_path: Path) -> None:
    """The base model of an adapter, and what a quantiser left alone."""
    names = ("q.base_layer.weight", "q.lora_A.default.weight", "down.weight", "lora.weight")
    torch.save(named(*names, "a.scales", "head.weight"), tmp_path / "a.pt")
    layers = {i.name for i in find_layers(open_checkpoint(tmp_path / "a.pt")) if type(i) is Layer}
    assert layers == {"q.base_layer.weight", "down.weight", "lora.weight", "head.weight"}
