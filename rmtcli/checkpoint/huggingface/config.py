"""The configuration of a Hugging Face directory, and the JSON files beside it."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from rmtcli.checkpoint.base import About
from rmtcli.errors import CheckpointError
from rmtcli.files import CONFIG

#: The method in ``quantization_config`` that marks a model with factored layers.
METHOD = "rmtcli"
#: The method of weights in few bits, whose packed integers are read as what they stand for.
COMPRESSED, PACKED_FORMAT = "compressed-tensors", "pack-quantized"
#: Files by which a folder is taken for a model.
_MARKS = (CONFIG, "modules.json", "adapter_config.json", "model_index.json")

#: Model types with layers of transformers' ``Conv1D``, which are stored as in × out.
_CONV1D_TYPES = frozenset(
    {"gpt2", "openai-gpt", "imagegpt", "decision_transformer", "clvp", "clvp_decoder"}
)
#: The names of these layers.
_CONV1D_NAMES = frozenset({"c_attn", "q_attn", "c_proj", "c_fc"})


def reads(entry: Mapping[str, Any]) -> bool:
    """Whether weights that a ``quantization_config`` describes are read as what they stand for."""
    method = entry.get("quant_method")
    return method == METHOD or (method, entry.get("format")) == (COMPRESSED, PACKED_FORMAT)


def is_model_directory(path: Path) -> bool:
    """Whether a folder is a model of Hugging Face's libraries, by the files that it holds."""
    return any((path / name).exists() for name in _MARKS)


def read_object(path: Path) -> dict[str, Any]:
    """Read the JSON object in a file.

    Raises:
        CheckpointError: the file is not a regular file, or does not hold a JSON object.
        OSError: the file does not exist, or cannot be read.
    """
    values = read_json(path)
    if not isinstance(values, dict):
        raise CheckpointError(f"{path}: damaged: not a JSON object")
    return values


def read_json(path: Path) -> Any:
    """Read a JSON file.

    Raises:
        CheckpointError: the file is not a regular file, or does not hold JSON.
        OSError: the file does not exist, or cannot be read.
    """
    if path.exists() and not path.is_file():
        raise CheckpointError(f"{path}: is a folder, a pipe or a device, not a file")
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as error:
        raise CheckpointError(f"{path}: damaged: not JSON ({error})") from None


def about(config: Mapping[str, Any]) -> About:
    """The facts in a configuration that the tensors do not tell, those of its parts included."""
    parts = list(parts_of(config))
    types = {part["model_type"] for part in parts if isinstance(part.get("model_type"), str)}
    sizes = {part["vocab_size"] for part in parts if type(part.get("vocab_size")) is int}
    transposed = _CONV1D_NAMES if types & _CONV1D_TYPES else frozenset()
    quantized = config.get("quantization_config") or None
    method = "" if quantized is None else "unknown"
    if isinstance(quantized, dict):
        method = str(quantized.get("quant_method", method))
    return About(transposed, frozenset(sizes), "" if method == METHOD else method, linear_only=True)


def parts_of(config: Mapping[str, Any]) -> Iterator[Mapping[str, Any]]:
    """A configuration and those inside it, such as a vision model's and a text model's."""
    yield config
    for value in config.values():
        if isinstance(value, dict):
            yield from parts_of(value)
