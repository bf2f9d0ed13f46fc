"""What a directory's files can make transformers import, and refusing it.

SECURITY.md lists every key by which a file can name code, and what happens with it.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from rmtcli.checkpoint.huggingface.config import read_object, reads
from rmtcli.errors import CheckpointError
from rmtcli.files import CONFIG

#: Files and folders that transformers loads by itself beside a model, and what to do.
_BESIDE = {
    "adapter_config.json": "an adapter, which transformers would load through peft: merge it into "
    "the model and save that, or remove the file",
    "custom_generate": "code, which transformers would run: remove the folder",
}
#: Attention that torch or transformers computes; any other name is that of a package or a
#: repository from which transformers loads a kernel.
_OWN_KERNELS = frozenset({"eager", "sdpa", "flex_attention", "grouped_mm", "batched_mm"})
_KERNELS = re.compile(r"_?(attn|experts)_implementation(_internal)?")
_TOKENIZER = re.compile(r"\w*(Tokenizer|TokenizerFast|Backend)")


def refuse_code(directory: Path) -> None:
    """Refuse a directory whose configuration makes transformers import or load more than a model.

    Only an ``auto_map`` of the whole model is left to the caller, who decides about
    ``trust_remote_code``.

    Raises:
        CheckpointError: the configuration, or the tokenizer's, names code, kernels, weights
            elsewhere, or another tool's quantisation.
    """
    for file in (directory / CONFIG, directory / "tokenizer_config.json"):
        if not file.exists():
            continue
        for key, value, depth in _entries(read_object(file)):
            if fault := _fault(key, value, depth):
                raise CheckpointError(f"{file}: '{key}' {fault}")


def refuse_code_beside(directory: Path) -> None:
    """Refuse a directory with more than a model, for transformers to open by its path alone.

    Raises:
        CheckpointError: it has an adapter or code beside its weights, or :func:`refuse_code`
            refuses it.
    """
    for name, reason in _BESIDE.items():
        if (directory / name).exists():
            raise CheckpointError(f"{directory / name}: is {reason}")
    refuse_code(directory)


def _entries(config: dict[str, Any]) -> Iterator[tuple[str, Any, int]]:
    """All keys and values of a configuration and of what is inside it, with their depth."""
    waiting: list[tuple[Any, int]] = [(config, 0)]
    while waiting:
        part, depth = waiting.pop()
        if isinstance(part, dict):
            yield from ((key, value, depth) for key, value in part.items())
        inside = part.values() if isinstance(part, dict) else part
        waiting += [(value, depth + 1) for value in inside if isinstance(value, dict | list)]


def _fault(key: str, value: Any, depth: int) -> str | None:
    """Why an entry of a configuration is refused, and what to do; None if it names no code."""
    if value in (None, False, {}, []):
        return None
    if key == "auto_map" and depth:
        return "names code of a part of the model, which is not run: remove it"
    if _KERNELS.fullmatch(key) and not _names(value) <= _OWN_KERNELS:
        return "names a kernel, which is not loaded: write 'eager' or 'sdpa' instead"
    if key in ("quantization_config", "compression_config"):
        ours = not depth and isinstance(value, dict) and reads(value)
        return None if ours else "is another tool's: the model must be saved without quantisation"
    if key == "checkpoint_path" or (
        key == "transformers_weights" and Path(str(value)).name != value
    ):
        return "names weights elsewhere, which are not loaded: remove it"
    if key == "tokenizer_class" and not _TOKENIZER.fullmatch(str(value)):
        return "is not the name of a tokenizer of transformers"
    return None


def _names(value: Any) -> set[str]:
    """The names in an entry that is one name, or one for each part of the model."""
    values = value.values() if isinstance(value, dict) else [value]
    return {str(name).removeprefix("paged|") for name in values if name is not None}
