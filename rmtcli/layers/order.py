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
    """A layer, by its name and the widths of its input and output.

    Attributes:
        name: name of its weight.
        inputs: number of inputs; of a convolution, those of a whole patch.
        outputs: number of outputs.
        kernel: number of positions in a patch; 1 for a linear layer.
    """

    name: str
    inputs: int
    outputs: int
    kernel: int = 1


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
        families.setdefault(_family(link.name), []).append(link)
    orders = _orders(list(families.values()), len(links))
    return orders[0] if len(orders) == 1 else None


def inner(links: Sequence[Link], *, as_stored: bool) -> set[str]:
    """Names of the layers whose outputs a later layer reads, by its width.

    In a torch file, all layers that follow are later, and a linear layer right after a convolution
    may read its outputs at several positions. In a safetensors file, only layers whose names differ
    in a number are known to be later.

    Args:
        links: the layers, in the order of the file (natural order for safetensors).
        as_stored: whether that order is the network's own.
    """
    names = set()
    for i, link in enumerate(links):
        later = links[i + 1 :]
        if not as_stored:
            family = _family(link.name)
            later = [other for other in later if _family(other.name) == family]
        flattened = as_stored and link.kernel > 1 and later and later[0].kernel == 1
        if any(other.inputs == link.outputs * other.kernel for other in later) or (
            flattened and later[0].inputs % link.outputs == 0
        ):
            names.add(link.name)
    return names


def _family(name: str) -> str:
    """A name that layers have in common whose names differ only in numbers."""
    return re.sub(r"\d+", "#", name)


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
