"""Adapters as PEFT stores them: a directory of a configuration and one file of tensors."""

from __future__ import annotations

import re
from collections import Counter, defaultdict
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from rmtcli.adapters.base import AdaptedLayer, Adapter, Kind, Style
from rmtcli.adapters.patterns import Patterns, explicit, tidy
from rmtcli.checkpoint import Checkpoint
from rmtcli.checkpoint.huggingface.config import read_object
from rmtcli.checkpoint.in_file import InFile
from rmtcli.checkpoint.safetensors import natural_order
from rmtcli.checkpoint.spill import Stored
from rmtcli.errors import CheckpointError

CONFIG = "adapter_config.json"
#: Names of the file of tensors, in the order in which PEFT looks for them.
WEIGHTS = ("adapter_model.safetensors", "adapter_model.bin")
#: What PEFT writes before the name of each tensor of the base model.
PREFIX = "base_model.model."
#: The part of the name of an adapted module's own weight.
_OWN = ".base_layer"
#: Parts of the names of tensors that peft wraps, and a part of those that it keeps of the base.
_INNER = r"\.(base_layer|modules_to_save)\."
_ORIGINAL = ".original_module."
#: Ends of tensors' names, and what the tensors are.
_PARTS = {
    ".lora_A.weight": ("right", Kind.LINEAR),
    ".lora_B.weight": ("left", Kind.LINEAR),
    ".lora_embedding_A": ("right", Kind.EMBEDDING),
    ".lora_embedding_B": ("left", Kind.EMBEDDING),
    ".lora_magnitude_vector": ("magnitude", None),
    ".lora_magnitude_vector.weight": ("magnitude", None),
}
#: The names of A and B: of layers, and of embeddings.
_NAMES = (("lora_A.weight", "lora_B.weight"), ("lora_embedding_A", "lora_embedding_B"))
#: Options of PEFT that give factors another meaning, or add tensors of other kinds.
_REFUSED = (
    *("layer_replication", "target_parameters", "trainable_token_indices", "lora_bias"),
    *("alora_invocation_tokens", "use_qalora", "use_bdlora", "kasa_config", "monteclora_config"),
    *("arrow_config", "ensure_weight_tying"),
)
#: Ways to begin training that leave the base's weights as they are.
_PLAIN_BEGINNINGS = (None, True, False, "gaussian", "eva", "orthogonal")


def read_peft(folder: Path, weights: Checkpoint) -> Adapter:
    """The adapter in a directory of PEFT.

    Args:
        folder: the directory.
        weights: its file of tensors.

    Raises:
        CheckpointError: the configuration is damaged or of another kind of adapter, or does not
            belong to the tensors.
    """
    config = read_object(folder / CONFIG)
    _refuse_others(folder / CONFIG, config)
    parts, saved = _sorted_parts(weights)
    patterns = Patterns(folder / CONFIG, config)
    layers = tuple(_layer(weights, module, parts[module], patterns, config) for module in parts)
    base = config.get("base_model_name_or_path")
    return Adapter(
        folder,
        layers,
        Style.PEFT,
        saved,
        base if isinstance(base, str) else None,
        config,
        weights.metadata,
        weights,
    )


def _refuse_others(path: Path, config: Mapping[str, Any]) -> None:
    """Refuse adapters whose change of the weights is not scale · B A.

    Raises:
        CheckpointError: it is one.
    """
    kind = config.get("peft_type")
    if kind != "LORA":
        raise CheckpointError(
            f"{path}: 'peft_type' is {kind!r}: only LORA is supported; merge the adapter into its "
            "base with peft"
        )
    used = [name for name in _REFUSED if config.get(name)]
    if used:
        raise CheckpointError(
            f"{path}: uses '{used[0]}', which rmtcli does not support: merge it with peft"
        )
    if config.get("init_lora_weights") not in _PLAIN_BEGINNINGS:
        raise CheckpointError(
            f"{path}: 'init_lora_weights' is {config['init_lora_weights']!r}, which changes the "
            "base's weights when the adapter is loaded: convert it to LoRA with peft, by "
            "save_pretrained(…, path_initial_model_for_weight_conversion=…)"
        )


def _sorted_parts(
    weights: Checkpoint,
) -> tuple[dict[str, dict[str, tuple[str, Kind | None]]], dict[str, Stored]]:
    """The tensors of each adapted module, by what they are, and all others by the base's names.

    Raises:
        CheckpointError: a name is not one of PEFT's.
    """
    parts: dict[str, dict[str, tuple[str, Kind | None]]] = defaultdict(dict)
    saved: dict[str, Stored] = {}
    for name in weights.infos:
        if not name.startswith(PREFIX):
            raise CheckpointError(
                f"{weights.path}: the tensor '{name}' is not PEFT's: names begin with '{PREFIX}'"
            )
        own = name.removeprefix(PREFIX)
        end = next((end for end in _PARTS if own.endswith(end)), None)
        if end is not None:
            part, kind = _PARTS[end]
            parts[own.removesuffix(end)][part] = (name, kind)
        elif "lora_" in own:
            raise CheckpointError(
                f"{weights.path}: the tensor '{name}' is of a kind that rmtcli does not support: "
                "merge the adapter with peft"
            )
        elif _ORIGINAL not in own:
            saved[re.sub(_INNER, ".", own)] = InFile(weights, name)
    if not parts:
        raise CheckpointError(f"{weights.path}: holds no factors of LoRA: nothing to read")
    return parts, saved


def _layer(
    weights: Checkpoint,
    module: str,
    parts: Mapping[str, tuple[str, Kind | None]],
    patterns: Patterns,
    config: Mapping[str, Any],
) -> AdaptedLayer:
    """The change of one module.

    Raises:
        CheckpointError: a tensor is missing, or the tensors do not fit together or to the
            configuration.
    """
    dora = bool(config.get("use_dora"))
    for part, name in (("left", "lora_B"), ("right", "lora_A"), ("magnitude", "lora_magnitude")):
        if part not in parts and (part != "magnitude" or dora):
            raise CheckpointError(f"{weights.path}: '{module}' has no {name}: not a whole adapter")
    stored = {part: InFile(weights, name) for part, (name, _) in parts.items()}
    kind = parts["right"][1] or Kind.LINEAR
    if kind is Kind.LINEAR and len(stored["right"].shape) > 2:
        kind = Kind.CONVOLUTION
    alpha, rslora = patterns.alpha(module), bool(config.get("use_rslora"))
    try:
        layer = AdaptedLayer(module, alpha=alpha, rslora=rslora, kind=kind, **stored)
    except ValueError as error:
        raise CheckpointError(f"{weights.path}: {error}") from None
    if layer.rank != patterns.rank(module):
        raise CheckpointError(
            f"{weights.path}: '{module}' has rank {layer.rank}, and {CONFIG} says "
            f"{patterns.rank(module)}: they are not of one adapter"
        )
    return layer


def peft_config(adapter: Adapter) -> dict[str, Any]:
    """The configuration with which PEFT gives each module its rank and scale.

    The default rank is the largest one, so that programs that know no patterns reserve enough, and
    if all scales are equal, the default scale is that of every module.

    Raises:
        CheckpointError: some modules have magnitudes, and others have none.
    """
    layers = adapter.layers
    if adapter.dora and any(layer.magnitude is None for layer in layers):
        raise CheckpointError(f"{adapter.path}: has magnitudes (DoRA) of some modules only")
    rslora = all(layer.rslora for layer in layers)
    ranks = {layer.module: layer.rank for layer in layers}
    alphas = {
        layer.module: layer.alpha if layer.rslora == rslora else layer.scale * layer.rank
        for layer in layers
    }
    rank = max(ranks.values())
    alpha = Counter(alphas[name] for name in alphas if ranks[name] == rank).most_common(1)[0][0]
    targets = adapter.config.get("target_modules") or sorted(ranks, key=natural_order)
    return {
        "task_type": None,
        "inference_mode": True,
        **adapter.config,
        "peft_type": "LORA",
        "base_model_name_or_path": adapter.base,
        "r": rank,
        "lora_alpha": tidy(alpha),
        "rank_pattern": explicit(ranks, rank),
        "alpha_pattern": {name: tidy(value) for name, value in explicit(alphas, alpha).items()},
        "use_rslora": rslora,
        "use_dora": adapter.dora,
        "init_lora_weights": True,
        "target_modules": targets,
        "modules_to_save": _modules_to_save(adapter),
    }


def _modules_to_save(adapter: Adapter) -> list[str] | None:
    """The modules that PEFT replaces whole, by their full names unless the configuration has some.

    An embedding whose table is stored beside its factors is not one of them, and neither is a
    module of which only the bias was trained.
    """
    if "modules_to_save" in adapter.config:
        listed: list[str] | None = adapter.config["modules_to_save"]
        return listed
    adapted = {layer.module for layer in adapter.layers}
    modules = dict.fromkeys(name.rpartition(".")[0] for name in adapter.saved)
    return [module for module in modules if module not in adapted] or None


def peft_tensors(adapter: Adapter) -> dict[str, Stored]:
    """The tensors of an adapter by PEFT's names."""
    tensors: dict[str, Stored] = {}
    adapted = {layer.module for layer in adapter.layers}
    for layer in adapter.layers:
        right, left = _NAMES[layer.kind is Kind.EMBEDDING]
        tensors[f"{PREFIX}{layer.module}.{right}"] = layer.right
        tensors[f"{PREFIX}{layer.module}.{left}"] = layer.left
        if layer.magnitude is not None:
            tensors[f"{PREFIX}{layer.module}.lora_magnitude_vector"] = layer.magnitude
    for name, stored in adapter.saved.items():
        module, _, last = name.rpartition(".")
        own = _OWN if module in adapted else ""
        tensors[f"{PREFIX}{module}{own}.{last}"] = stored
    return tensors
