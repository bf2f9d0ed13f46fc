"""Files of bitsandbytes: weights of 4 bits with a table of values, or of 8 bits with row scales.

``X.weight`` holds the codes. With 4 bits, ``X.weight.absmax``, ``X.weight.quant_map`` and others
beside it describe them, and ``X.weight.quant_state.bitsandbytes__nf4`` holds JSON with the shape.
With 8 bits, ``X.SCB`` has the largest entry of each row.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping
from typing import Any

import torch

from rmtcli.checkpoint.base import Checkpoint, TensorInfo
from rmtcli.checkpoint.dequantised.recipe import Recipe, tool
from rmtcli.checkpoint.dtypes import FLOAT_WORDS
from rmtcli.errors import CheckpointError

_STATE = ".quant_state.bitsandbytes__"


def recipes(
    files: Mapping[str, Checkpoint], settings: Mapping[str, Any], dtype: str | None
) -> Iterator[tuple[str, Recipe]]:
    """How each weight is computed, by its name.

    Args:
        files: the file of each tensor.
        settings: the entry ``quantization_config``, which is not needed.
        dtype: the model's own type, of weights of 8 bits.

    Raises:
        CheckpointError: the description of a weight is damaged.
    """
    for name, file in files.items():
        weight, _, kind = name.partition(_STATE)
        if kind and weight in files:
            yield weight, _four_bits(files, weight, name)
        module = name.removesuffix(".weight")
        beside, info = f"{module}.SCB", file.infos[name]
        if name != module and beside in files and info.dtype == "I8":
            parts = {"codes": name, "scales": beside, "format": f"{module}.weight_format"}
            parts = {key: part for key, part in parts.items() if part in files}
            yield name, Recipe(TensorInfo(info.shape, dtype or "F16"), parts, _rows)


def _four_bits(files: Mapping[str, Checkpoint], name: str, state: str) -> Recipe:
    path = files[state].path
    try:
        facts = json.loads(files[state].raw(state).data.tobytes())
        shape, dtype = tuple(map(int, facts["shape"])), FLOAT_WORDS[facts["dtype"]]
    except (ValueError, KeyError, TypeError):
        raise CheckpointError(f"{path}: '{state}': damaged: no shape and type") from None
    if min(shape, default=0) < 1 or math.prod(shape) > 2 * files[name].nbytes(name):
        raise CheckpointError(f"{path}: '{name}': damaged: has no {shape} codes")
    beside = (part for part in files if part.startswith(f"{name}."))
    parts = {"weight": name} | {part.removeprefix(f"{name}."): part for part in beside}
    return Recipe(TensorInfo(shape, dtype), parts, _blocks)


def _blocks(tensors: dict[str, torch.Tensor]) -> torch.Tensor:
    functional = tool("bitsandbytes.functional")
    codes = tensors.pop("weight")
    state = functional.QuantState.from_dict(tensors, device=codes.device)
    # Blocks run on from row to row. On the processor, bitsandbytes 0.50.2 begins one with each row,
    # which is wrong where rows are no multiple of a block: so it gets a single row.
    shape, state.shape = state.shape, torch.Size([state.shape.numel()])
    result: torch.Tensor = functional.dequantize_4bit(codes, state).reshape(shape)
    return result


def _rows(tensors: dict[str, torch.Tensor]) -> torch.Tensor:
    functional = tool("bitsandbytes.functional")
    if int(tensors.get("format", torch.tensor(0))):
        raise ValueError("its codes are in the order of a GPU")
    result: torch.Tensor = functional.int8_vectorwise_dequant(tensors["codes"], tensors["scales"])
    return result
