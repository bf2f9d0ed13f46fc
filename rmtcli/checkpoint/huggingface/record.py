"""The record of changed layers in a configuration, which transformers keeps when it saves a model.

The manifest in the weights' file is lost there. If the model was opened as another class, its
tensors have another prefix than the names in the configuration.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import replace
from typing import Any

from rmtcli.checkpoint.base import TensorInfo
from rmtcli.checkpoint.huggingface.config import METHOD
from rmtcli.checkpoint.manifest import Manifest
from rmtcli.checkpoint.names import factors_of, parts_of, pivots_of, weight_of

#: What the configuration does not tell of the manifest.
_UNKNOWN = "not recorded"


def recorded(config: Mapping[str, Any], infos: Mapping[str, TensorInfo]) -> Manifest | None:
    """The manifest of the layers that a configuration names: factored, or beside narrower ones.

    Args:
        config: the configuration.
        infos: the tensors beside it.

    Returns:
        None if there are none, or if the tensors do not hold all of them.
    """
    entry = config.get("quantization_config")
    if not isinstance(entry, dict) or entry.get("quant_method") != METHOD:
        return None
    kinds = ("ranks", "shared", "pivoted", "tables", "narrowed")
    parts = [entry.get(key, {}) for key in kinds]
    if not all(isinstance(part, dict) for part in parts):
        return None
    ranks, shared, pivoted, tables, narrowed = parts
    if not (ranks or narrowed) or not all(map(_is_pair, narrowed.values())):
        return None
    split = _modules(infos, (factors_of("")[1], pivots_of("")[1]))
    names = {module: _stored(module, split) for module in ranks}
    whole_or_split = split | _modules(infos, ("weight",))
    names |= {m: _stored(m, whole_or_split) for m in narrowed if m not in names}
    if any(name is None for name in names.values()):
        return None
    whole = {str(names[module]): rank for module, rank in ranks.items()}
    siblings = {str(names.get(a)): str(names.get(b)) for a, b in shared.items()}
    others = {str(names.get(module)): rows for module, rows in pivoted.items()}
    looked_up = {str(names.get(module)): list(rest) for module, rest in tables.items()}
    words = _UNKNOWN, _UNKNOWN, _UNKNOWN, _UNKNOWN, _UNKNOWN
    record = Manifest(*words, whole, shared=siblings, pivoted=others, tables=looked_up)
    dense, shapes = (
        {weight_of(str(names[module])): sides[key] for module, sides in narrowed.items()}
        for key in ("from", "to")
    )
    record = replace(record, narrowed=dense, shapes=shapes)
    return record if _fits(record, infos) else None


def _is_pair(entry: object) -> bool:
    """Whether a value gives two shapes of a layer, ``from`` and ``to``."""
    if not isinstance(entry, dict):
        return False
    shapes = [entry.get(key) for key in ("from", "to")]
    return all(
        isinstance(shape, list) and len(shape) == 2 and all(type(side) is int for side in shape)
        for shape in shapes
    )


def _modules(infos: Mapping[str, TensorInfo], leaves: Collection[str]) -> set[str]:
    """The modules with a tensor of one of these names."""
    ends = [f".{leaf}" for leaf in leaves]
    return {name.removesuffix(end) for name in infos for end in ends if name.endswith(end)}


def _stored(module: str, modules: Collection[str]) -> str | None:
    """The name that a module of the configuration has among the tensors' modules."""
    if module in modules:
        return module
    same = [x for x in modules if x.endswith(f".{module}") or module.endswith(f".{x}")]
    return same[0] if len(same) == 1 else None


def _fits(record: Manifest, infos: Mapping[str, TensorInfo]) -> bool:
    """Whether the tensors hold factors of the ranks in a record."""
    shared = record.shared_factors
    for module, rank in record.factored.items():
        right, left, _ = parts_of(module, pivoted=module in record.pivoted)
        first, second = infos.get(shared.get(right, right)), infos.get(left)
        if first is None or second is None or not first.shape or len(second.shape) < 2:
            return False
        if not first.shape[module in record.tables] == second.shape[1] == rank:
            return False
    return True
