"""Where in a trainer's file the state dict is, whoever reads it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

#: Where trainers put the state dict, in the order in which it is looked for.
STATE_DICT_KEYS = ("state_dict", "model_state_dict", "model", "module", "model_state", "net")

#: Attribute of the state dict that holds rmtcli's manifest. An attribute, as torch's own
#: ``_metadata`` is, because an entry would be an unexpected key to ``load_state_dict``.
MANIFEST_ATTRIBUTE = "_rmtcli"


def find_state_dict(
    tree: object, is_tensor: Callable[[object], bool], depth: int = 4
) -> tuple[str, ...] | None:
    """The keys that lead to the state dict: a known key first, then the object itself.

    Args:
        tree: what the file holds.
        is_tensor: whether a value is an ordinary dense tensor.
        depth: how many keys it may take.

    Returns:
        The keys, none for a bare state dict; None where there is no state dict.
    """
    if not isinstance(tree, Mapping) or not depth:
        return None
    for key in STATE_DICT_KEYS:
        inner = find_state_dict(tree.get(key), is_tensor, depth - 1)
        if inner is not None:
            return (key, *inner)
    return () if any(map(is_tensor, tree.values())) else None


def at(tree: Any, where: tuple[str, ...]) -> Any:
    """What some keys lead to."""
    for key in where:
        tree = tree[key]
    return tree


def extras_of(tree: Any, where: tuple[str, ...]) -> tuple[str, ...]:
    """Names of what stands beside the state dict."""
    return tuple(word(key) for key in tree if where and key != where[0])


def word(key: object) -> str:
    """What an entry is called; a tuple of tuples could be of any length."""
    return str(key) if isinstance(key, str | int) else f"a {type(key).__name__}"
