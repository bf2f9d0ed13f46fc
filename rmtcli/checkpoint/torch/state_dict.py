"""Finding the state dict in a file that a training program wrote."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

from rmtcli.errors import CheckpointError, UsageError
from rmtcli.options import option

#: Keys under which training programs store the state dict, in the order in which they are tried.
STATE_DICT_KEYS = ("state_dict", "model_state_dict", "model", "module", "model_state", "net")

#: How many keys are followed to a state dict that the user does not name.
_DEPTH = 3
#: How many key paths a message lists.
_LISTED = 10

#: Attribute of the state dict that holds rmtcli's manifest. An attribute, as torch's own
#: ``_metadata`` is, because an entry would be an unexpected key to ``load_state_dict``.
MANIFEST_ATTRIBUTE = "_rmtcli"

#: Keys that lead from the object in a file to a state dict; empty for a bare one.
Where = tuple[str, ...]


def find_state_dict(
    path: Path, tree: object, is_tensor: Callable[[object], bool], key: str | None = None
) -> Where:
    """The keys that lead to the state dict: one that holds matrices, if any does.

    It is the one under the known keys, the first of them before the others; a known key counts
    before the object itself. Without such a one, it is the only one that there is.

    Args:
        path: the file, for messages.
        tree: the object in the file.
        is_tensor: whether a value is an ordinary dense tensor.
        key: the user's choice, keys joined by dots; the state dict is there or below.

    Raises:
        UsageError: there are several, and none is under the known keys; or none is under ``key``.
        CheckpointError: there is no state dict.
    """
    choices = _choices(tree, is_tensor)
    start = () if key is None else _split(tree, key)
    if key is not None and start is not None:
        choices = [start + rest for rest in _choices(at(tree, start), is_tensor)]
    if not choices and key is None:
        raise CheckpointError(
            f"{path}: holds no state dict: save model.state_dict(), bare or under "
            f"one of the keys {', '.join(STATE_DICT_KEYS)}"
        )
    if start is None or not choices:
        raise UsageError(f"{path}: holds no state dict under '{key}': {_listed(tree, is_tensor)}")
    known = [where for where in choices if set(where[len(start) :]) <= set(STATE_DICT_KEYS)]
    if known:
        return min(known, key=lambda where: _rank(where[len(start) :]))
    if len(choices) > 1:
        raise UsageError(
            f"{path}: holds several state dicts, name one with {option('key')}: "
            f"{_listed(tree, is_tensor)}"
        )
    return choices[0]


def _rank(where: Where) -> tuple[int, ...]:
    """The order in which known keys are tried; an object comes after the keys in it."""
    return (*map(STATE_DICT_KEYS.index, where), len(STATE_DICT_KEYS))


def _choices(tree: object, is_tensor: Callable[[object], bool]) -> list[Where]:
    """Key paths of the mappings that hold matrices; if there are none, of those with tensors."""
    sizes: dict[int, int] = {}  # by the mapping's address: a pickle can hold it many times
    axes: dict[Where, int] = {}
    for where, mapping in _mappings(tree):
        if id(mapping) not in sizes:
            tensors = filter(is_tensor, mapping.values())
            sizes[id(mapping)] = max((len(v.shape) for v in tensors), default=-1)
        axes[where] = sizes[id(mapping)]
    matrices = [where for where, most in axes.items() if most >= 2]
    return matrices or [where for where, most in axes.items() if most >= 0]


def _mappings(tree: object) -> Iterator[tuple[Where, Mapping[Any, Any]]]:
    """Every mapping, with its keys; what is in one that occurs several times comes once.

    An optimizer's state has the names of parameters in some programs; it is left out.
    """
    queue: deque[tuple[Where, object]] = deque([((), tree)])
    seen: set[int] = set()
    while queue:
        where, value = queue.popleft()
        if not isinstance(value, Mapping) or {"state", "param_groups"} <= value.keys():
            continue
        yield where, value
        if id(value) not in seen and len(where) < _DEPTH:
            queue += [((*where, k), inner) for k, inner in value.items() if isinstance(k, str)]
        seen.add(id(value))


def _split(tree: object, key: str) -> Where | None:
    """The keys, which may hold dots themselves, that a user's text joins; None if there are none.

    A key counts if there is a mapping under it.
    """
    if not key:
        return ()
    for first, inner in tree.items() if isinstance(tree, Mapping) else ():
        if isinstance(first, str) and first and f"{key}.".startswith(f"{first}."):
            rest = _split(inner, key[len(first) + 1 :])
            if rest is not None and isinstance(inner, Mapping):
                return (first, *rest)
    return None


def _listed(tree: object, is_tensor: Callable[[object], bool]) -> str:
    """The key paths that a user can choose from, in words."""
    names = [f"'{'.'.join(where)}'" for where in _choices(tree, is_tensor) if where]
    more = f" and {len(names) - _LISTED} more" if len(names) > _LISTED else ""
    return (
        ", ".join(names[:_LISTED]) + more
        or f"it holds only one, or none: leave out {option('key')}"
    )


def at(tree: Any, where: Where) -> Any:
    """The object under a sequence of keys."""
    for key in where:
        tree = tree[key]
    return tree


def extras_of(tree: Any, where: Where) -> tuple[str, ...]:
    """Names of the objects beside the state dict, and beside the objects that it is in."""
    return tuple(
        ".".join((*where[:depth], word(key)))
        for depth in range(len(where))
        for key in at(tree, where[:depth])
        if key != where[depth]
    )


def word(key: object) -> str:
    """The name of an entry in messages. Keys may be of any type, and a tuple of any length."""
    return str(key) if isinstance(key, str | int) else f"a {type(key).__name__}"
