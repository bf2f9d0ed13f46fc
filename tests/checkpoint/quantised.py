"""Directories whose weights other tools have quantised, each made by the tool itself."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

from tests.conftest import noise

#: The weight that is quantised, 96 × 64, and one that no tool changes.
WEIGHT = torch.from_numpy(noise((96, 64))).to(torch.bfloat16)
OTHER = torch.from_numpy(noise((48, 40), seed=1)).to(torch.bfloat16)
NAME = "layers.0.fc.weight"

Made = tuple[dict[str, torch.Tensor], dict[str, Any], dict[str, str]]


def bitsandbytes_of_four(kind: str, block: int) -> Made:
    functional: Any = pytest.importorskip("bitsandbytes.functional")
    codes, state = functional.quantize_4bit(
        WEIGHT, blocksize=block, compress_statistics=kind == "nf4", quant_type=kind
    )
    parts = {f"weight.{key}": value for key, value in state.as_dict(packed=True).items()}
    return {"weight": codes} | parts, {"quant_method": "bitsandbytes", "load_in_4bit": True}, {}


def bitsandbytes_of_eight() -> Made:
    functional: Any = pytest.importorskip("bitsandbytes.functional")
    codes, scales, _ = functional.int8_vectorwise_quant(WEIGHT.half())
    parts = {"weight": codes, "SCB": scales, "weight_format": torch.tensor(0).byte()}
    return parts, {"quant_method": "bitsandbytes", "load_in_8bit": True}, {}


def torchao(kind: str) -> Made:
    quantization: Any = pytest.importorskip("torchao.quantization")
    from torchao.prototype.safetensors.safetensors_support import flatten_tensor_state_dict

    options = {"version": 2} if kind.startswith("Int8") else {}
    linear = torch.nn.Linear(64, 96, bias=False, dtype=torch.bfloat16)
    linear.weight = torch.nn.Parameter(WEIGHT.clone(), requires_grad=False)
    quantization.quantize_(linear, getattr(quantization, kind)(**options))
    data, metadata = flatten_tensor_state_dict({NAME: linear.weight})
    module = NAME.removesuffix("weight")
    parts = {name.removeprefix(module): value for name, value in data.items()}
    return parts, {"quant_method": "torchao"}, metadata


def compressed_tensors(kind: str, **options: Any) -> Made:
    quantization: Any = pytest.importorskip("compressed_tensors.quantization")
    from compressed_tensors.compressors import BaseCompressor
    from compressed_tensors.quantization.utils import calculate_qparams, generate_gparam

    weights = quantization.QuantizationArgs(**options)
    groups = WEIGHT.reshape(96, -1, options.get("group_size", 64)).float()
    least, most, state = groups.amin(2), groups.amax(2), {"weight": WEIGHT}
    if options["strategy"] == "tensor_group":
        state["weight_global_scale"] = generate_gparam(least.min(), most.max())
    scale, zero = calculate_qparams(least, most, weights, state.get("weight_global_scale"))
    state |= {"weight_scale": scale if len(state) > 1 else scale.bfloat16()}
    scheme = quantization.QuantizationScheme(targets=["Linear"], weights=weights)
    state["weight_zero_point"] = zero
    parts = BaseCompressor.get_value_from_registry(kind).compress(state, scheme)
    entry = {"targets": ["Linear"], "weights": json.loads(weights.model_dump_json())}
    settings = {"quant_method": "compressed-tensors", "format": kind}
    return parts, settings | {"config_groups": {"group_0": entry}}, {}


def blocks_of_eight_bits() -> Made:
    pytest.importorskip("compressed_tensors")
    tiles = WEIGHT.float().reshape(3, 32, 2, 32)
    scale = tiles.abs().amax((1, 3)) / 448
    codes = (tiles / scale[:, None, :, None]).reshape(96, 64).to(torch.float8_e4m3fn)
    settings = {"quant_method": "fp8", "weight_block_size": [32, 32]}
    return {"weight": codes, "weight_scale_inv": scale}, settings, {}


def awq() -> Made:
    """Codes of 4 bits for groups of 32 inputs, packed as AutoAWQ's GEMM kernel reads them."""
    pytest.importorskip("compressed_tensors")
    groups = WEIGHT.float().T.reshape(2, 32, 96)
    least, most = groups.amin(1), groups.amax(1)
    scales = ((most - least) / 15).half()
    zeros = (-least / scales).round().clamp(0, 15)
    codes = (groups / scales[:, None] + zeros[:, None]).round().clamp(0, 15).reshape(64, 96)

    def words(values: torch.Tensor) -> torch.Tensor:
        eight = values.to(torch.int64).reshape(len(values), -1, 8)[:, :, [0, 2, 4, 6, 1, 3, 5, 7]]
        word = (eight << (4 * torch.arange(8))).sum(2)
        return torch.where(word >= 2**31, word - 2**32, word).to(torch.int32)

    settings = {"quant_method": "awq", "bits": 4, "group_size": 32, "zero_point": True}
    parts = {"qweight": words(codes), "qzeros": words(zeros), "scales": scales}
    return parts, settings | {"version": "gemm"}, {}


#: Kind -> (its maker, the largest error of an entry as a share of the largest entry).
KINDS: dict[str, tuple[Callable[[], Made], float]] = {
    "bitsandbytes, nf4": (lambda: bitsandbytes_of_four("nf4", 64), 0.16),
    # Its own function mixes up blocks that are no part of a row, on the processor.
    "bitsandbytes, fp4 in blocks of two rows": (lambda: bitsandbytes_of_four("fp4", 128), 0.18),
    "bitsandbytes, 8 bits": (bitsandbytes_of_eight, 0.006),
    "torchao, 8 bits": (lambda: torchao("Int8WeightOnlyConfig"), 0.008),
    "torchao, float8": (lambda: torchao("Float8WeightOnlyConfig"), 0.04),
    "compressed-tensors, 4 bits with zero points": (
        lambda: compressed_tensors(
            "pack-quantized", num_bits=4, symmetric=False, strategy="group", group_size=32
        ),
        0.08,
    ),
    "compressed-tensors, 8 bits": (
        lambda: compressed_tensors("int-quantized", num_bits=8, strategy="channel"),
        0.008,
    ),
    "compressed-tensors, float8": (
        lambda: compressed_tensors("float-quantized", num_bits=8, type="float", strategy="channel"),
        0.04,
    ),
    "compressed-tensors, nvfp4": (
        lambda: compressed_tensors(
            "nvfp4-pack-quantized",
            num_bits=4,
            type="float",
            strategy="tensor_group",
            group_size=16,
            scale_dtype=torch.float8_e4m3fn,
        ),
        0.25,
    ),
    "compressed-tensors, mxfp4": (
        lambda: compressed_tensors(
            "mxfp4-pack-quantized",
            num_bits=4,
            type="float",
            strategy="group",
            group_size=32,
            scale_dtype=torch.uint8,
        ),
        0.5,
    ),
    "AutoAWQ": (awq, 0.09),
    "blocks of float8": (blocks_of_eight_bits, 0.04),
}


def quantised_directory(folder: Path, kind: str) -> Path:
    """A directory of one kind, with a layer that is quantised and one that is not."""
    parts, settings, metadata = KINDS[kind][0]()
    module = NAME.removesuffix("weight")
    tensors = {module + name: value.contiguous() for name, value in parts.items()}
    tensors |= {"layers.1.fc.weight": OTHER, "layers.0.fc.bias": WEIGHT[:, 0].clone()}
    folder.mkdir()
    config = {"model_type": "x", "dtype": "bfloat16", "quantization_config": settings}
    (folder / "config.json").write_text(json.dumps(config))
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"} | metadata)
    return folder
