"""Finding tied tensors: names that stand for the same weights."""

from __future__ import annotations

from collections.abc import Hashable, Iterable, Mapping

import numpy as np

from rmtcli.checkpoint.base import Checkpoint, TensorInfo


def equal_tensors(checkpoint: Checkpoint, names: Iterable[str]) -> Mapping[str, str]:
    """For each of ``names`` whose tensor equals an earlier one bit for bit: the earlier name.

    For formats that cannot store two names for one tensor.
    A shared factor that is not stored under its own name is tied to the name that stores it.
    """
    aliased = checkpoint.aliased_factors
    candidates: dict[tuple[TensorInfo, bytes], list[str]] = {}
    ties = {}
    for name in names:
        if name in aliased:
            ties[name] = aliased[name]
            continue
        alike = candidates.setdefault((checkpoint.infos[name], checkpoint.head(name)), [])
        equal = (
            other
            for other in alike
            if np.array_equal(checkpoint.raw(other).data, checkpoint.raw(name).data)
        )
        earlier = next(equal, None)
        if earlier is None:
            alike.append(name)
        else:
            ties[name] = earlier
    return ties


def equal_keys(keys: Mapping[str, Hashable]) -> Mapping[str, str]:
    """For each name whose key equals the key of an earlier one: the earlier name."""
    first: dict[Hashable, str] = {}
    ties = {}
    for name, key in keys.items():
        earlier = first.setdefault(key, name)
        if earlier != name:
            ties[name] = earlier
    return ties
