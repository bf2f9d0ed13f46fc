"""Finding tied tensors: names that stand for the same weights."""

from __future__ import annotations

from collections.abc import Hashable, Iterable, Mapping

import numpy as np

from rmtcli.checkpoint.base import Checkpoint, TensorInfo


def equal_tensors(checkpoint: Checkpoint, names: Iterable[str]) -> Mapping[str, str]:
    """For each of ``names`` whose tensor equals an earlier one bit for bit: the earlier name.

    For formats that cannot store two names for one tensor. Names that share one are not compared.
    """
    first: dict[str, str] = {}
    candidates: dict[tuple[TensorInfo, bytes], list[str]] = {}
    ties = {}
    for name in names:
        stored = checkpoint.aliases.get(name, name)
        if stored in first:
            ties[name] = first[stored]
            continue
        alike = candidates.setdefault((checkpoint.infos[name], checkpoint.head(name)), [])
        equal = (
            other
            for other in alike
            if np.array_equal(checkpoint.raw(other).data, checkpoint.raw(name).data)
        )
        first[stored] = next(equal, name)
        if first[stored] == name:
            alike.append(name)
        else:
            ties[name] = first[stored]
    return ties


def shared_storages(checkpoint: Checkpoint) -> Mapping[str, str]:
    """The aliases among a file's tied names: all but the first, which stores the tensor.

    A right factor that siblings share is stored by the one that the manifest names.
    """
    shared = {} if checkpoint.manifest is None else checkpoint.manifest.shared_factors
    return checkpoint.ties(sorted(checkpoint.infos, key=lambda name: name in shared))


def equal_keys(keys: Mapping[str, Hashable]) -> Mapping[str, str]:
    """For each name whose key equals the key of an earlier one: the earlier name."""
    first: dict[Hashable, str] = {}
    ties = {}
    for name, key in keys.items():
        earlier = first.setdefault(key, name)
        if earlier != name:
            ties[name] = earlier
    return ties
