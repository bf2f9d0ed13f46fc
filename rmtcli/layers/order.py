"""The order in which linear layers follow one another, as far as a file tells."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

#: Number of partial orders after which the search gives up.
_PATIENCE = 10_000


@dataclass(frozen=True, slots=True)
class Link:
    """A linear layer, by its name and the widths of its input and output."""

    name: str
    inputs: int
    outputs: int


def ordered(links: Sequence[Link], *, as_stored: bool) -> list[Link] | None:
    """The only order in which every layer's output has the width of the next layer's input.

    A torch file keeps the order of the modules, which is the only candidate then. A safetensors
    file does not. There, names that differ only in a number are in the order of that number;
    otherwise the widths must leave a single possibility.

    Args:
        links: the layers, in the order of the file (natural order for safetensors).
        as_stored: whether that order is the network's own.

    Returns:
        The layers in order; None if they are not a chain, or if several orders are possible.
    """
    if as_stored:
        fits = all(a.outputs == b.inputs for a, b in pairwise(links))
        return list(links) if fits else None
    families: dict[str, list[Link]] = {}
    for link in links:
        families.setdefault(re.sub(r"\d+", "#", link.name), []).append(link)
    orders = _orders(list(families.values()), len(links))
    return orders[0] if len(orders) == 1 else None


def _orders(families: list[list[Link]], length: int) -> list[list[Link]]:
    """Up to two orders in which the widths match and each family keeps its own order."""
    orders: list[list[Link]] = []
    stack: list[tuple[list[Link], tuple[int, ...]]] = [([], (0,) * len(families))]
    for _ in range(_PATIENCE):
        if not stack or len(orders) == 2:
            return orders
        path, positions = stack.pop()
        if len(path) == length:
            orders.append(path)
            continue
        for i, family in enumerate(families):
            if positions[i] == len(family):
                continue
            link = family[positions[i]]
            if not path or path[-1].outputs == link.inputs:
                after = (*positions[:i], positions[i] + 1, *positions[i + 1 :])
                stack.append(([*path, link], after))
    return []
