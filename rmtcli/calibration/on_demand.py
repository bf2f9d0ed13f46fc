"""Values by name that are made when they are asked for."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import TypeVar

T = TypeVar("T")


class OnDemand(Mapping[str, T]):
    """Values by name that are made each time they are asked for, and not held.

    Args:
        makers: makes the value of each name. They are pickled for a cluster.
    """

    def __init__(self, makers: Mapping[str, Callable[[], T]]) -> None:
        self.makers = makers

    def __getitem__(self, name: str) -> T:
        return self.makers[name]()

    def __contains__(self, name: object) -> bool:
        return name in self.makers

    def __iter__(self) -> Iterator[str]:
        return iter(self.makers)

    def __len__(self) -> int:
        return len(self.makers)
