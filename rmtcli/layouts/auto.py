"""Each layer in the layout that is cheapest for it, and hidden layers narrower where that helps."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from rmtcli.layouts.base import LAYOUTS, Layout
from rmtcli.layouts.factored import Factored
from rmtcli.layouts.pivoted import Pivoted


@LAYOUTS.register("auto")
@dataclass(frozen=True, slots=True)
class Auto(Pivoted):
    """Pivoted or factored layers, by their cost in a budget's unit, and narrower hidden layers.

    Nothing is stored under this name: a layer with a rank is pivoted or factored, and a layer
    beside a narrower hidden layer is dense if it has no rank.
    """

    narrows: ClassVar[bool] = True

    @property
    def choices(self) -> tuple[Layout, ...]:
        """Pivoted, unless factored costs less."""
        return Pivoted(), Factored()
