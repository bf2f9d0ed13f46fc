"""Running sums over batches: of rows, of their products, and of a fold that is kept apart."""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import cached_property

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from rmtcli.arrays import FloatArray
from rmtcli.calibration.spread import Spread
from rmtcli.calibration.symmetric import half

#: Rows that are in memory as float64 at a time.
_ROWS = 2**15
#: Columns that are multiplied at a time by those from them on. (BLAS multiplies a matrix by its own
#: transpose a little faster, but with threads of its own, which would wait beside torch's.)
_COLUMNS = 192
#: Number of rows, their sum, and one half of the sum of their products.
Total = tuple[int, NDArray[np.float64], FloatArray]


@dataclass
class Sums:
    """Running sums over rows: the tensors that a group of layers reads, or one layer's outputs.

    Attributes:
        centred: whether the spread between batches is that around a mean.
        dtype: type in which products are summed up.
        fold: sums of the fold that is kept apart.
    """

    centred: bool = True
    dtype: torch.dtype = torch.float64
    fold: Total | None = None
    spread: Spread = field(init=False)
    #: Rows of the batch that is running, as long as they take less memory than their products.
    _rows: list[Tensor] = field(default_factory=list)
    _batch: _Batch | None = None

    def __post_init__(self) -> None:
        self.spread = Spread(centred=self.centred)

    @property
    def rows(self) -> int:
        """Number of rows of all batches that have ended."""
        return self.spread.rows

    def add(self, values: Tensor, bias: Tensor | None = None) -> None:
        """Add rows, shape (rows, width), less a bias of shape (width,)."""
        values = values.detach()
        self._rows.append(values if bias is None else values.double() - bias.detach().double())
        if sum(map(len, self._rows)) > values.shape[1]:
            self._multiply()
        elif bias is None:  # what waits must not change with the network's tensors
            self._rows[-1] = values.clone()

    def _multiply(self) -> None:
        """Add the products of the rows that wait."""
        for rows in self._rows:
            for block in torch.split(rows, _ROWS):
                self._batch = self._batch or _Batch(block.shape[1], self.dtype, block.device)
                self._batch.add(block.to(self.dtype))
        self._rows.clear()

    def close(self, *, apart: bool = False) -> None:
        """End a batch, whose samples are independent of those of other batches.

        Args:
            apart: whether the batch is also added to the fold that is kept apart.
        """
        self._multiply()
        batch, self._batch = self._batch, None
        if batch is None or not batch.rows:
            return
        entries = half(batch.upper.cpu().numpy())
        if apart:
            self.fold = _added(self.fold, (batch.rows, batch.total.copy(), entries.copy()))
        self.spread.add(batch.rows, batch.total, entries)

    def merge(self, other: Sums) -> None:
        """Add the sums of other batches, which are closed; they must not be used afterwards."""
        self.spread.merge(other.spread)
        if other.fold is not None:
            self.fold = _added(self.fold, other.fold)

    @cached_property
    def averages(self) -> tuple[FloatArray, FloatArray]:
        """E[x] and E[x xᵀ], computed once for all layers of the group."""
        second = self.spread.outer  # first, because it needs the sums
        second /= self.rows
        return self.spread.total / self.rows, second


class _Batch:
    """Running sums over the rows of a batch.

    Args:
        width: entries of a row.
        dtype: type in which products are summed up.
        device: where the rows are.

    Attributes:
        rows: number of rows.
        total: their sum, shape (width,).
        upper: the sum of their products, shape (width, width), with its upper triangle filled.
    """

    def __init__(self, width: int, dtype: torch.dtype, device: torch.device) -> None:
        self.rows, self.total = 0, np.zeros(width)
        self.upper = torch.zeros(width, width, dtype=dtype, device=device)

    def add(self, x: Tensor) -> None:
        """Add rows, shape (rows, width)."""
        self.rows += len(x)
        self.total += x.double().sum(0).cpu().numpy()
        for start in range(0, x.shape[1], _COLUMNS):
            columns = slice(start, start + _COLUMNS)
            self.upper[columns, start:].addmm_(x[:, columns].T, x[:, start:])


def _added(sums: Total | None, more: Total) -> Total:
    """Some sums and others, which take the memory of the first."""
    if sums is None:
        return more
    total, entries = sums[1:]
    total += more[1]
    entries += more[2]
    return sums[0] + more[0], total, entries
