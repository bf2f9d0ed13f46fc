"""Tensors with equal bytes: formats that cannot say that two names share one storage."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping

import numpy as np

from rmtcli.checkpoint.base import TensorInfo
from rmtcli.checkpoint.dtypes import RawTensor

#: First bytes, which decide nearly always.
HEAD = 4096


def equal_tensors(
    names: Iterable[str],
    infos: Mapping[str, TensorInfo],
    head: Callable[[str], bytes],
    raw: Callable[[str], RawTensor],
    lent: Mapping[str, str],
) -> Mapping[str, str]:
    """For each tensor that equals an earlier one bit for bit, or is lent by one: that one.

    Args:
        names: those to compare.
        infos: their shapes and types.
        head: the first :data:`HEAD` bytes of one.
        raw: a whole one.
        lent: for names that are not stored: those whose tensors they stand for.
    """
    first: dict[tuple[TensorInfo, bytes], list[str]] = {}
    ties = {}
    for name in names:
        if name in lent:
            ties[name] = lent[name]
            continue
        alike = first.setdefault((infos[name], head(name)), [])
        twin = next((n for n in alike if np.array_equal(raw(n).data, raw(name).data)), None)
        if twin is None:
            alike.append(name)
        else:
            ties[name] = twin
    return ties
