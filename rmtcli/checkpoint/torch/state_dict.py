"""Finding the state dict in a file that a training program wrote."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

#: Keys under which training programs store the state dict, in the order in which they are tried.
STATE_DICT_KEYS = ("state_dict", "model_state_dict", "model", "module", "model_state", "net")

#: Attribute of the state dict that holds rmtcli's manifest. An attribute, as torch's own
#: ``_metadata`` is, because an entry would be an unexpected key to ``load_state_dict``.
MANIFEST_ATTRIBUTE = "_rmtcli"


def find_state_dict(
    tree: object, is_tensor: Callable[[object], bool], depth: int = 4
) -> tuple[str, ...] | None:
    """The keys that lead to the state dict; a known key is tried before the object itself.

    Args:
        tree: the object in the file.
        is_tensor: whether a value is an ordinary dense tensor.
        depth: how many keys may lead to it.

    Returns:
        The keys, empty for a bare state dict; None if there is no state dict.
    """
    if not isinstance(tree, Mapping) or not depth:
        return None
    for key in STATE_DICT_KEYS:
        inner = find_state_dict(tree.get(key), is_tensor, depth - 1)
        if inner is not None:
            return (key, *inner)
    return () if any(map(is_tensor, tree.values())) else None


def at(tree: Any, where: tuple[str, ...]) -> Any:
    """The object under a sequence of keys."""
    for key in where:
        tree = tree[key]
    return tree


def extras_of(tree: Any, where: tuple[str, ...]) -> tuple[str, ...]:
    """Names of the objects beside the state dict."""
    return tuple(word(key) for key in tree if where and key != where[0])


def word(key: object) -> str:
    """The name of an entry in messages. Keys may be of any type, and a tuple of any length."""
    return str(key) if isinstance(key, str | int) else f"a {type(key).__name__}"
