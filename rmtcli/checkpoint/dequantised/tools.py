"""The tools whose weights are read, and the directories that they are in."""

from __future__ import annotations

from collections.abc import Mapping
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from rmtcli.checkpoint.base import Checkpoint
from rmtcli.checkpoint.dequantised.recipe import Dequantised
from rmtcli.checkpoint.dtypes import FLOAT_WORDS
from rmtcli.checkpoint.formats import Deferred
from rmtcli.errors import UsageError

_HERE = "rmtcli.checkpoint.dequantised"
#: Name under ``quant_method`` -> package, and the function that gives the recipes.
_TOOLS = {
    "awq": ("compressed-tensors", Deferred(f"{_HERE}.awq:recipes")),
    "bitsandbytes": ("bitsandbytes", Deferred(f"{_HERE}.bitsandbytes:recipes")),
    "compressed-tensors": ("compressed-tensors", Deferred(f"{_HERE}.compressed_tensors:recipes")),
    "fp8": ("compressed-tensors", Deferred(f"{_HERE}.compressed_tensors:blocks")),
    "torchao": ("torchao", Deferred(f"{_HERE}.torchao:recipes")),
}


def dequantised(
    home: Path, config: Mapping[str, Any], files: Mapping[str, Checkpoint]
) -> Dequantised | None:
    """The weights of a directory that a tool computes; None if it has none that are read.

    Args:
        home: the directory.
        config: its configuration.
        files: the file of each of its tensors.

    Raises:
        UsageError: the tool's package is not installed.
        CheckpointError: the description of a weight is damaged.
    """
    settings = config.get("quantization_config")
    method = str(settings.get("quant_method")) if isinstance(settings, dict) else ""
    if method not in _TOOLS:
        return None
    package, recipes = _TOOLS[method]
    dtype = FLOAT_WORDS.get(str(config.get("dtype") or config.get("torch_dtype")))
    missing = UsageError(f"{home}: its weights need {package} to be read: pip install {package}")
    try:
        made = dict(recipes(files, settings, dtype))
    except ImportError:
        raise missing from None
    if made and find_spec(package.replace("-", "_")) is None:
        raise missing
    return Dequantised(home, made, files) if made else None
