"""Running sums over batches: of rows, of their products, and of a fold that is kept apart."""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import cached_property

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from rmtcli.calibration.spread import Spread

Array = NDArray[np.float64]

#: Rows that are in memory as float64 at a time.
_ROWS = 2**15


@dataclass
class Sums:
    """Running sums over rows: the tensors that a group of layers reads, or one layer's outputs."""

    rows: int = 0
    total: Array = field(default_factory=lambda: np.zeros(()))
    outer: Array = field(default_factory=lambda: np.zeros(()))
    #: Of the batch that is running.
    batch: tuple[int, Array, Array] | None = None
    #: Of the fold that is kept apart.
    fold: tuple[int, Array, Array] | None = None
    centred: bool = True
    spread: Spread = field(init=False)

    def __post_init__(self) -> None:
        self.spread = Spread(centred=self.centred)

    def add(self, values: Tensor, bias: Tensor | None = None) -> None:
        """Add rows, shape (rows, width), less a bias of shape (width,)."""
        for block in torch.split(values.detach(), _ROWS):
            x = block.double() if bias is None else block.double() - bias.detach().double()
            total, outer = x.sum(0).cpu().numpy(), (x.T @ x).cpu().numpy()
            rows, *sums = self.batch or (0, 0.0, 0.0)
            self.batch = rows + len(block), sums[0] + total, sums[1] + outer

    def close(self, *, apart: bool = False) -> None:
        """End a batch, whose samples are independent of those of other batches.

        Args:
            apart: whether the batch is also added to the fold that is kept apart.
        """
        if self.batch is None or not self.batch[0]:
            return
        rows, total, outer = self.batch
        self.batch = None
        self.rows += rows
        self.total = self.total + total
        self.outer = self.outer + outer
        self.spread.add(rows, total, outer)
        if apart:
            known, *sums = self.fold or (0, 0.0, 0.0)
            self.fold = known + rows, sums[0] + total, sums[1] + outer

    def take_centre(self) -> None:
        """End a batch that only says from which point the spread's rows count."""
        if self.batch is not None and self.batch[0]:
            self.spread.fix_centre(self.batch[1] / self.batch[0])
        self.batch = None

    def merge(self, other: Sums) -> None:
        """Add the sums of other batches, which are closed."""
        self.rows += other.rows
        self.total = self.total + other.total
        self.outer = self.outer + other.outer
        self.spread.merge(other.spread)
        if other.fold is not None:
            known, *sums = self.fold or (0, 0.0, 0.0)
            rows, total, outer = other.fold
            self.fold = known + rows, sums[0] + total, sums[1] + outer

    @cached_property
    def averages(self) -> tuple[Array, Array]:
        """E[x] and E[x xᵀ], computed once for all layers of the group, in the sums' memory."""
        self.total /= self.rows
        self.outer /= self.rows
        return self.total, self.outer
