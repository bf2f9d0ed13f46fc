"""Watching the runs of a network: hooks that are removed again, and tensors compared."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from torch import Tensor

#: Differences up to this share of the largest value are rounding.
_TOLERANCE = 1e-5


def equal(a: Tensor, b: Tensor) -> bool:
    """Whether two tensors are equal up to rounding."""
    return a.shape == b.shape and bool((a - b).abs().max() <= _TOLERANCE * a.abs().max())


@contextmanager
def removed(hooks: Sequence[Any]) -> Iterator[None]:
    """Remove hooks on leaving the block."""
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()
