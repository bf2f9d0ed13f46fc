"""Adapters as sd-scripts (kohya) stores them: one file, with names in which dots are underscores.

A module's name cannot be told from its name in such a file, because names have underscores of their
own. So names stay as they are.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping

import numpy as np

from rmtcli.adapters.base import AdaptedLayer, Adapter, Kind, Style
from rmtcli.adapters.tucker import Tucker
from rmtcli.checkpoint import Checkpoint, decode, encode
from rmtcli.checkpoint.dtypes import FLOATS
from rmtcli.checkpoint.in_file import InFile
from rmtcli.checkpoint.spill import Stored
from rmtcli.errors import CheckpointError, UsageError

#: Ends of tensors' names, and what the tensors are.
_PARTS = {
    ".lora_down.weight": "right",
    ".lora_up.weight": "left",
    ".lora_mid.weight": "mid",
    ".alpha": "alpha",
    ".dora_scale": "magnitude",
}
#: Parts of tensors' names by which other kinds of adapters are known.
_OTHERS = {
    ".hada_": "LoHa",
    ".lokr_": "LoKr",
    ".oft_": "OFT",
    ".diff": "a change that is not low-rank",
    ".lora_A.": "an adapter of PEFT or diffusers without its adapter_config.json",
}
#: Text of the header that describes the tensors as they were, and so is not kept.
_HASHES = ("sshs_model_hash", "sshs_legacy_hash")
#: What sd-scripts writes for a rank that differs between modules.
_DYNAMIC = "Dynamic"


def read_kohya(file: Checkpoint) -> Adapter:
    """The adapter in a file of sd-scripts.

    Raises:
        CheckpointError: a tensor is missing, of another kind of adapter, or does not fit.
    """
    parts: dict[str, dict[str, Stored]] = defaultdict(dict)
    for name in file.infos:
        end = next((end for end in _PARTS if name.endswith(end)), None)
        if end is None:
            raise CheckpointError(f"{file.path}: {_unknown(name)}")
        parts[name.removesuffix(end)][_PARTS[end]] = InFile(file, name)
    layers = tuple(_layer(file, module, parts[module]) for module in parts)
    if not layers:
        raise CheckpointError(f"{file.path}: holds no tensors: nothing to read")
    return Adapter(file.path, layers, Style.KOHYA, metadata=file.metadata, source=file)


def _unknown(name: str) -> str:
    """What is wrong with a tensor that is not one of LoRA's."""
    other = next((words for part, words in _OTHERS.items() if part in name), None)
    if other is None:
        return (
            f"the tensor '{name}' is not part of an adapter in kohya's style (lora_down, lora_up, "
            "alpha); of a PEFT adapter, name the directory"
        )
    return f"the tensor '{name}' is part of {other}, which rmtcli does not support"


def _layer(file: Checkpoint, module: str, parts: Mapping[str, Stored]) -> AdaptedLayer:
    """The change of one module; without an alpha, the scale is 1.

    Raises:
        CheckpointError: a tensor is missing, or the tensors do not fit together.
    """
    for part, name in (("left", "lora_up"), ("right", "lora_down")):
        if part not in parts:
            raise CheckpointError(f"{file.path}: '{module}' has no {name}: not a whole adapter")
    left, right = parts["left"], parts["right"]
    if "mid" in parts:
        try:
            right = Tucker(parts["mid"], right)
        except ValueError as error:
            raise CheckpointError(f"{file.path}: '{module}' {error}") from None
    kind = Kind.CONVOLUTION if len(right.shape) > 2 else Kind.LINEAR
    alpha = _alpha(file, module, parts["alpha"]) if "alpha" in parts else (right.shape or (0,))[0]
    try:
        return AdaptedLayer(module, left, right, alpha, kind=kind, magnitude=parts.get("magnitude"))
    except ValueError as error:
        raise CheckpointError(f"{file.path}: {error}") from None


def _alpha(file: Checkpoint, module: str, stored: Stored) -> float:
    """The number in an alpha's tensor.

    Raises:
        CheckpointError: it is not one number.
    """
    raw = stored.read()
    whole = raw.dtype in ("I64", "I32", "I16", "I8")
    if raw.data.size == 0 or len(raw.shape) > 1 or not (whole or raw.dtype in FLOATS):
        raise CheckpointError(f"{file.path}: the alpha of '{module}' is not a number")
    values = decode(raw).reshape(-1)
    if len(values) != 1:
        raise CheckpointError(f"{file.path}: the alpha of '{module}' is not one number")
    return float(values[0])


def kohya_tensors(adapter: Adapter, prefix: str) -> dict[str, Stored]:
    """The tensors of an adapter by kohya's names.

    Args:
        adapter: the adapter.
        prefix: what names of modules begin with where they are those of a network, with dots;
            sd-scripts looks for ``lora_unet`` and ``lora_te``.

    Raises:
        UsageError: two names would become one.
    """
    tensors: dict[str, Stored] = {}
    names: dict[str, str] = {}
    for layer in adapter.layers:
        name = layer.module
        if adapter.style is not Style.KOHYA:
            name = f"{prefix}_{name.replace('.', '_')}"
        if (other := names.setdefault(name, layer.module)) != layer.module:
            raise UsageError(
                f"{adapter.path}: '{other}' and '{layer.module}' would both be named '{name}'"
            )
        tensors[f"{name}.lora_down.weight"] = layer.right
        tensors[f"{name}.lora_up.weight"] = layer.left
        tensors[f"{name}.alpha"] = encode(np.array(layer.scale * layer.rank), "F32")
        if layer.magnitude is not None:
            tensors[f"{name}.dora_scale"] = layer.magnitude
    return tensors


def refuse_unfit(adapter: Adapter) -> None:
    """Refuse an adapter for which the style has no names, or several, or that would become larger.

    Raises:
        UsageError: it is one.
    """
    problem = ""
    if adapter.saved:
        problem = f"holds whole tensors of the base, such as '{next(iter(adapter.saved))}'"
    for layer in adapter.layers:
        if layer.kind is Kind.EMBEDDING:
            problem = f"changes the embedding '{layer.module}'"
        elif isinstance(layer.right, Tucker):
            raise UsageError(
                f"{adapter.path}: '{layer.module}' is in three factors (lora_mid), and two would "
                "take more bytes: merge it, or train it again without Tucker decomposition"
            )
        elif layer.magnitude is not None and adapter.style is not Style.KOHYA:
            problem = f"has magnitudes (DoRA) of '{layer.module}'"
    if problem:
        raise UsageError(
            f"{adapter.path}: {problem}, which kohya's style cannot hold: write it as PEFT"
        )


def kohya_metadata(adapter: Adapter) -> dict[str, str]:
    """The text of the header, with the ranks and alphas as they are now."""
    kept = {key: text for key, text in adapter.metadata.items() if key not in _HASHES}
    ranks = {layer.rank for layer in adapter.layers}
    alphas = {layer.scale * layer.rank for layer in adapter.layers}
    return {
        **kept,
        "ss_network_module": kept.get("ss_network_module", "networks.lora"),
        "ss_network_dim": _one(ranks),
        "ss_network_alpha": _one(alphas),
    }


def _one(numbers: set[float] | set[int]) -> str:
    """A number as text, or the word for several."""
    return f"{next(iter(numbers)):g}" if len(numbers) == 1 else _DYNAMIC
