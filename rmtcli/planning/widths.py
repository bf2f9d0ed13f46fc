"""Divide one budget among hidden layers: their widths of least total loss."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from rmtcli.arrays import FloatArray

#: Bisections of the price, and most rounds in which widths settle at one price.
_PRICES, _ROUNDS = 60, 30


@dataclass(frozen=True, slots=True)
class Side:
    """One side of a tensor: fixed, or the width of a hidden layer.

    Attributes:
        size: its dense size.
        layer: number of the hidden layer whose width it is; None if it stays.
        times: how often it has that width: once for each attention head.
    """

    size: int
    layer: int | None = None
    times: int = 1

    def at(self, widths: Sequence[int]) -> int:
        """Its size at these widths of the hidden layers."""
        return self.size if self.layer is None else self.times * widths[self.layer]


@dataclass(frozen=True, slots=True)
class Table:
    """A tensor that costs its rows times its columns times a price."""

    rows: Side
    columns: Side
    price: int

    def cost(self, widths: Sequence[int]) -> int:
        """What it costs at these widths of the hidden layers."""
        return self.price * self.rows.at(widths) * self.columns.at(widths)

    def costs(
        self, layer: int, options: NDArray[np.int64], widths: Sequence[int]
    ) -> NDArray[np.int64]:
        """What it costs at each width of one hidden layer, the others at these widths."""
        cost = np.full(len(options), self.price, np.int64)
        for side in (self.rows, self.columns):
            cost *= side.times * options if side.layer == layer else side.at(widths)
        return cost


@dataclass(frozen=True, slots=True, eq=False)
class WidthAllocation:
    """The hidden layers among which a budget is divided.

    In a chain of layers, a tensor has the width of one hidden layer as rows and that of another as
    columns, so that the cost of one depends on the width of the other.

    Attributes:
        losses: for each hidden layer, the loss at every width from 0 to all units, descending. All
            are on one scale.
        tables: the tensors whose sides are these widths.
        total: cost of the dense model, other tensors included.
        multiple: widths are multiples of it, unless all units stay.
    """

    losses: Sequence[FloatArray]
    tables: Sequence[Table]
    total: int
    multiple: int = 1

    @property
    def least(self) -> int:
        """Cost of the model with each hidden layer at its smallest width."""
        return self.cost([int(self._options(i)[0]) for i in range(len(self.losses))])

    @property
    def at_edge(self) -> int:
        """A size to try first when the size is searched for."""
        return max(self.least, self.total // 4)

    def cost(self, widths: Sequence[int]) -> int:
        """Cost of the model at these widths."""
        dense = [len(losses) - 1 for losses in self.losses]
        return self.total + sum(t.cost(widths) - t.cost(dense) for t in self.tables)

    def widths(self, size: int) -> list[int]:
        """The best widths for a model that costs at most ``size``.

        A multiplier puts one price on cost (Everett, 1963), which is bisected. At each price the
        hidden layers choose in turn, each knowing the widths of its neighbours, until none changes.
        The rest of the budget is spent on the steps with the largest gain for their cost.

        Raises:
            ValueError: the smallest widths cost more.
        """
        if size < self.least:
            raise ValueError(f"the smallest widths cost {self.least:,}, and the budget is {size:,}")
        best = [int(self._options(i)[0]) for i in range(len(self.losses))]
        low, high = 0.0, max((float(losses[0]) for losses in self.losses), default=0.0) + 1.0
        for _ in range(_PRICES):
            price = (low + high) / 2
            widths = self._settled(price)
            if self.cost(widths) > size:
                low = price
            else:
                best, high = widths, price
        return self._spent(best, size)

    def _options(self, layer: int) -> NDArray[np.int64]:
        units = len(self.losses[layer]) - 1
        multiples = np.arange(self.multiple, units, self.multiple, dtype=np.int64)
        return np.append(multiples, units)

    def _costs(self, layer: int, widths: Sequence[int]) -> NDArray[np.int64]:
        """What the tensors around a hidden layer cost at each of its options."""
        options, cost = self._options(layer), np.int64(0)
        sides = (t for t in self.tables if layer in (t.rows.layer, t.columns.layer))
        return np.asarray(sum((t.costs(layer, options, widths) for t in sides), start=cost))

    def _settled(self, price: float) -> list[int]:
        """Widths of which none changes alone at a price."""
        widths = [len(losses) - 1 for losses in self.losses]
        for _ in range(_ROUNDS):
            old = list(widths)
            for i, losses in enumerate(self.losses):
                options = self._options(i)
                value = losses[options] + price * self._costs(i, widths)
                widths[i] = int(options[np.argmin(value)])
            if widths == old:
                break
        return widths

    def _spent(self, widths: list[int], size: int) -> list[int]:
        """The widths after the step with the largest gain for its cost, as long as one fits."""
        while True:
            left, steps = size - self.cost(widths), []
            for i, losses in enumerate(self.losses):
                options, costs = self._options(i), self._costs(i, widths)
                extra = costs - costs[np.searchsorted(options, widths[i])]
                gain = losses[widths[i]] - losses[options]
                fits = (extra > 0) & (extra <= left) & (gain > 0)
                if fits.any():
                    rate = np.where(fits, gain / np.where(fits, extra, 1), 0.0)
                    j = int(np.argmax(rate))
                    steps.append((float(rate[j]), i, int(options[j])))
            if not steps:
                return widths
            _, i, width = max(steps)
            widths[i] = width
