"""Files of torchao: the parts of each quantised tensor, and in the metadata what they make up.

The metadata has JSON under the name of each weight: the class of the tensor, and the names of its
parts. A part ``qdata`` of ``X.weight`` is the tensor ``X._weight_qdata``.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from functools import partial
from typing import Any

import torch

from rmtcli.checkpoint.base import Checkpoint, TensorInfo
from rmtcli.checkpoint.dequantised.recipe import Recipe, tool, type_of
from rmtcli.checkpoint.torch.tensors import DTYPES
from rmtcli.errors import CheckpointError, first_line


def recipes(
    files: Mapping[str, Checkpoint], settings: Mapping[str, Any], dtype: str | None
) -> Iterator[tuple[str, Recipe]]:
    """How each weight is computed, by its name.

    Args:
        files: the file of each tensor.
        settings: the entry ``quantization_config``, which is not needed.
        dtype: the model's own type, which is not needed.

    Raises:
        CheckpointError: the description of a weight is damaged, or of a kind that is not known.
    """
    for file in dict.fromkeys(files.values()):
        for name, text in file.metadata.items():
            stem = _stem(name)
            parts = {part: part for part in file.infos if part.startswith(stem)}
            if name not in files and parts:
                yield name, _recipe(file, name, text, parts)


def _stem(name: str) -> str:
    """How the names of a weight's parts begin."""
    module, dot, last = name.rpartition(".")
    return f"{module}{dot}_{last}_"


def _recipe(file: Checkpoint, name: str, text: str, parts: Mapping[str, str]) -> Recipe:
    compute = partial(_dequantise, name, text)
    empty = {part: _like(file.infos[part]) for part in parts}
    try:
        value = compute(empty)
        info = TensorInfo(tuple(value.shape), DTYPES[value.dtype])
    except ImportError:
        raise
    except Exception as error:  # whatever torchao raises of a damaged file
        reason = first_line(error)
        raise CheckpointError(f"{file.path}: '{name}': not read by torchao: {reason}") from None
    return Recipe(info, parts, compute)


def _like(info: TensorInfo) -> torch.Tensor:
    """A tensor without memory."""
    return torch.empty(info.shape, dtype=type_of(info.dtype), device="meta")


def _dequantise(name: str, text: str, tensors: dict[str, torch.Tensor]) -> torch.Tensor:
    support = tool("torchao.prototype.safetensors.safetensors_support")
    metadata = {"tensor_names": json.dumps([name]), name: text}
    result: torch.Tensor = support.unflatten_tensor_state_dict(tensors, metadata)[0][
        name
    ].dequantize()
    return result
