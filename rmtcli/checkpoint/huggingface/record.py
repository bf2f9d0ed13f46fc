"""The record of factored layers in a configuration, which transformers keeps when it saves a model.

The manifest in the weights' file is lost there. If the model was opened as another class, its
tensors have another prefix than the names in the configuration.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any

from rmtcli.checkpoint.base import TensorInfo
from rmtcli.checkpoint.huggingface.config import METHOD
from rmtcli.checkpoint.manifest import Manifest
from rmtcli.checkpoint.names import factors_of, parts_of, pivots_of

#: What the configuration does not tell of the manifest.
_UNKNOWN = "not recorded"


def recorded(config: Mapping[str, Any], infos: Mapping[str, TensorInfo]) -> Manifest | None:
    """The manifest of the factored layers that a configuration names.

    Args:
        config: the configuration.
        infos: the tensors beside it.

    Returns:
        None if no layer is factored, or if the tensors do not hold the factors of all of them.
    """
    entry = config.get("quantization_config")
    if not isinstance(entry, dict) or entry.get("quant_method") != METHOD:
        return None
    kinds = ("ranks", "shared", "pivoted", "tables")
    ranks, shared, pivoted, tables = (entry.get(key, {}) for key in kinds)
    if not ranks or not all(isinstance(x, dict) for x in (ranks, shared, pivoted, tables)):
        return None
    modules = _modules(infos)
    names = {module: _stored(module, modules) for module in ranks}
    if any(name is None for name in names.values()):
        return None
    whole = {str(names[module]): rank for module, rank in ranks.items()}
    siblings = {str(names.get(a)): str(names.get(b)) for a, b in shared.items()}
    others = {str(names.get(module)): rows for module, rows in pivoted.items()}
    looked_up = {str(names.get(module)): list(rest) for module, rest in tables.items()}
    words = _UNKNOWN, _UNKNOWN, _UNKNOWN, _UNKNOWN, _UNKNOWN
    record = Manifest(*words, whole, shared=siblings, pivoted=others, tables=looked_up)
    return record if _fits(record, infos) else None


def _modules(infos: Mapping[str, TensorInfo]) -> set[str]:
    """The modules with a tensor that may be a left factor, or hold the rest of pivoted rows."""
    ends = ("." + factors_of("")[1], "." + pivots_of("")[1])
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
