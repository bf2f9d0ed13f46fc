"""A cluster that computes each chunk when its sums are asked for."""

from __future__ import annotations

import weakref
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from rmtcli.computing import Cluster


class OneByOne(Cluster):
    """Expects that the sums of a chunk are gone when those of the next one are asked for.

    Those of the first chunk may stay: the next ones are added to them.
    """

    def in_order(
        self,
        function: Callable[[Any], Any],
        items: Iterable[Any],
        *,
        alone: Callable[[Any], bool],
    ) -> Iterator[Any]:
        for number, item in enumerate(items):
            made = [function(item)]
            left = [weakref.ref(sums) for sums in made[0].inputs.values()]
            yield made.pop()
            assert number == 0 or not any(sums() for sums in left)


def one_by_one() -> Cluster:
    return OneByOne(ThreadPoolExecutor(1), 1)
