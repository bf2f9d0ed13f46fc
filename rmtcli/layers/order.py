"""In which order linear layers follow one another, as far as a file can tell."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

#: Partial orders that the search looks at before it gives up.
_PATIENCE = 10_000


@dataclass(frozen=True, slots=True)
class Link:
    """A linear layer by its ends."""

    name: str
    inputs: int
    outputs: int


def ordered(links: Sequence[Link], *, as_stored: bool) -> list[Link] | None:
    """The one order in which every layer takes what the layer before it gives.

    A torch file keeps the order of the modules, which then is the only candidate. A safetensors
    file does not. There, names that differ in a number alone follow its order; beyond that the
    widths have to leave a single possibility.

    Args:
        links: the layers, in the order of the file (natural order for safetensors).
        as_stored: whether that order is the network's own.

    Returns:
        The layers in order; None where they make no chain, or where several orders would do.
    """
    if as_stored:
        fits = all(a.outputs == b.inputs for a, b in pairwise(links))
        return list(links) if fits else None
    families: dict[str, list[Link]] = {}
    for link in links:
        families.setdefault(re.sub(r"\d+", "#", link.name), []).append(link)
    found = _orders(list(families.values()), len(links))
    return found[0] if len(found) == 1 else None


def _orders(families: list[list[Link]], length: int) -> list[list[Link]]:
    """Up to two orders in which widths match and each family keeps its own order."""
    found: list[list[Link]] = []
    stack: list[tuple[list[Link], tuple[int, ...]]] = [([], (0,) * len(families))]
    for _ in range(_PATIENCE):
        if not stack or len(found) == 2:
            return found
        path, places = stack.pop()
        if len(path) == length:
            found.append(path)
            continue
        for i, family in enumerate(families):
            if places[i] == len(family):
                continue
            link = family[places[i]]
            if not path or path[-1].outputs == link.inputs:
                after = (*places[:i], places[i] + 1, *places[i + 1 :])
                stack.append(([*path, link], after))
    return []
