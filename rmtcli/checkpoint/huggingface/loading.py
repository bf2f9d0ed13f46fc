"""What a written configuration tells the programs that load the model."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from rmtcli.checkpoint.huggingface.config import (
    COMPRESSED,
    METHOD,
    PACKED_FORMAT,
    about,
    parts_of,
    reads,
)
from rmtcli.checkpoint.manifest import Manifest
from rmtcli.checkpoint.names import module_of

#: The file that registers rmtcli's layers with transformers, here and in a written directory.
LOADER = "rmtcli_loading.py"
#: The entry in which transformers looks for the name of the file that holds the weights.
WEIGHTS = "transformers_weights"
#: What it says of a model with split layers. Plain transformers refuses it as the name of a file,
#: instead of leaving the split layers at random values; with the loader, it is not seen.
IMPORT = "rmtcli changed its layers: first 'import rmtcli.integrations.transformers'"
TRUST = ", or pass trust_remote_code=True"


def new_config(config: Mapping[str, Any], manifest: Manifest | None) -> dict[str, Any]:
    """A configuration that tells a loader which layers are factored, or no longer does.

    The entries of other tools stay: their ``quantization_config`` unless layers are factored, and
    their classes in ``auto_map``.
    """
    factored = manifest is not None and needs_loader(config, manifest)
    new = {key: value for key, value in config.items() if key != "quantization_config"}
    other = config.get("quantization_config")
    if other and not (isinstance(other, dict) and reads(other)):
        new["quantization_config"] = other
    auto_map = _auto_map(new.pop("auto_map", None), config_class(config) if factored else None)
    if auto_map:
        new["auto_map"] = auto_map
    if str(new.get(WEIGHTS, "")).startswith(IMPORT):
        del new[WEIGHTS]
    if factored:
        new[WEIGHTS] = IMPORT + (TRUST if _is_loaders(auto_map.get("AutoConfig")) else "")
    if manifest is not None and factored:
        new["quantization_config"] = quantization_config(manifest)
    elif manifest is not None and manifest.packed:
        new["quantization_config"] = compressed_config(manifest)
    for entry, width in (manifest.entries if manifest else {}).items():
        *parts, key = entry.split(".")
        part = new
        for name in parts:
            part[name] = dict(part[name])
            part = part[name]
        part[key] = width
    return new


def _auto_map(old: Any, name: str | None) -> dict[str, Any]:
    """The classes that a program imports: other tools' own, and the loader's configuration.

    Args:
        old: the entry of the old configuration.
        name: transformers' class for the configuration, if the loader is to stand in for it.
    """
    entries = dict(old) if isinstance(old, dict) else {}
    if _is_loaders(entries.get("AutoConfig")):
        del entries["AutoConfig"]
    own = {} if name is None else {"AutoConfig": f"{LOADER.removesuffix('.py')}.{name}"}
    return own | entries


def _is_loaders(entry: Any) -> bool:
    """Whether an entry of ``auto_map`` names a class of the loader."""
    return str(entry or "").startswith(f"{LOADER.removesuffix('.py')}.")


def quantization_config(manifest: Manifest) -> dict[str, Any]:
    """The ``quantization_config`` of a model for ``rmtcli_loading.py``."""
    # The least version whose loader opens the layers.
    version = 3 if manifest.packed or manifest.tables else 2 if manifest.pivoted else 1
    version = 4 if manifest.shapes else version
    entry = {"quant_method": METHOD, "version": version, "ranks": dict(manifest.factored)}
    packed = {name: {"bits": x["bits"], "group": x["group"]} for name, x in manifest.packed.items()}
    tables = {name: list(others) for name, others in manifest.tables.items()}
    others = {"shared": manifest.shared, "pivoted": manifest.pivoted, "packed": packed}
    others |= {"tables": tables, "narrowed": _narrowed(manifest)}
    return entry | {name: value for name, value in others.items() if value}


def _narrowed(manifest: Manifest) -> dict[str, dict[str, list[int]]]:
    """The shapes of layers beside hidden layers whose widths are their own, by module."""
    return {
        module_of(name): {"from": list(manifest.narrowed[name]), "to": list(shape)}
        for name, shape in manifest.shapes.items()
    }


def needs_loader(config: Mapping[str, Any], manifest: Manifest) -> bool:
    """Whether transformers needs ``rmtcli_loading.py`` to open a model."""
    packed = manifest.packed and not _is_compressed(config, manifest)
    return bool(manifest.factored or manifest.shapes or packed)


def _is_compressed(config: Mapping[str, Any], manifest: Manifest) -> bool:
    """Whether compressed-tensors reads all tensors in few bits.

    Layers must be dense, in one grid, named as in transformers' model, and no ``Conv1D``, whose
    weights are stored as in × out.
    """
    transposed, packed = about(config).transposed, manifest.packed
    return (
        not (manifest.factored or manifest.shapes)
        and len({(entry["bits"], entry["group"]) for entry in packed.values()}) == 1
        and all(entry["plain"] for entry in packed.values())
        and not any(module_of(name).rpartition(".")[2] in transposed for name in packed)
        and not _renames(config)
    )


def _renames(config: Mapping[str, Any]) -> bool:
    """Whether transformers gives modules other names than their weights have in the file.

    compressed-tensors would not know such a module as one in few bits, and leave its weights at
    random values. Where transformers 5 is not installed to say so, its modules may be renamed.
    """
    try:
        from transformers.conversion_mapping import get_checkpoint_conversion_mapping
        from transformers.models.auto import modeling_auto
    except ImportError:
        return True
    bases = vars(modeling_auto)["MODEL_MAPPING_NAMES"]
    for part in parts_of(config):
        kind, classes = str(part.get("model_type")), part.get("architectures")
        names = {kind, bases.get(kind), *(classes if isinstance(classes, list) else ())}
        if any(get_checkpoint_conversion_mapping(name) for name in names):
            return True
    return False


def compressed_config(manifest: Manifest) -> dict[str, Any]:
    """The ``quantization_config`` of a dense model in few bits, for compressed-tensors.

    ``dequantize`` has transformers compute the weights on loading: it cannot run embeddings in few
    bits otherwise.
    """
    entry = next(iter(manifest.packed.values()))
    weights = {
        "num_bits": entry["bits"],
        "type": "int",
        "symmetric": True,
        "strategy": "group",
        "group_size": entry["group"],
        "dynamic": False,
    }
    targets = [rf"re:(^|.*\.){re.escape(module_of(name))}$" for name in manifest.packed]
    group = {"targets": targets, "weights": weights, "format": PACKED_FORMAT}
    return {
        "quant_method": COMPRESSED,
        "format": PACKED_FORMAT,
        "quantization_status": "compressed",
        "config_groups": {"group_0": group},
        "ignore": [],
        "dequantize": True,
    }


def config_class(config: Mapping[str, Any]) -> str | None:
    """The name of transformers' class for a configuration.

    None for a model type without one, and where transformers is not installed.
    """
    try:
        from transformers.models.auto import configuration_auto
    except ImportError:
        return None
    name = vars(configuration_auto)["CONFIG_MAPPING_NAMES"].get(str(config.get("model_type")))
    return None if name is None else str(name)
