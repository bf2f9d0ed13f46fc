"""Rounding a matrix to a few bits per entry: whole numbers times a scale for each group.

The grid is that of compressed-tensors' symmetric integers: with b bits, the codes −2ᵇ⁻¹ … 2ᵇ⁻¹ − 1,
and one scale for each run of entries along a row.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from rmtcli.arrays import FloatArray

#: Shares of a group's largest entry at which the largest code is tried, with either sign: entries
#: beyond it are clipped, and all others get a finer grid.
SHARES = tuple(np.outer(np.linspace(1.0, 0.4, 13), (1.0, -1.0)).ravel())


#: Neighbours that share a scale.
GROUP = 128
#: Matrices whose longer side has fewer entries stay as they are: a row fills a word of 32 bits.
SHORTEST = 32
#: Mean squared error of rounding normal numbers to the nearest, in groups of 128, as a share of
#: their variance, by bits per entry.
ERRORS = {8: 4.2e-5, 6: 6.5e-4, 5: 2.51e-3, 4: 9.43e-3, 3: 3.47e-2, 2: 1.40e-1}


def is_rounded(shape: tuple[int, ...]) -> bool:
    """Whether a tensor of this shape is stored in few bits: a matrix with a long side."""
    return len(shape) == 2 and min(shape) > 0 and max(shape) >= SHORTEST


@dataclass(frozen=True, slots=True)
class Grid:
    """How finely entries are rounded.

    Attributes:
        bits: bits per entry, from 2 to 8.
        group: neighbours in a row that share one scale, a power of two.
        columnwise: whether the neighbours are those in a column.
    """

    bits: int
    group: int = GROUP
    columnwise: bool = False

    @property
    def largest(self) -> int:
        """The largest code."""
        return int(2 ** (self.bits - 1)) - 1

    def of(self, shape: tuple[int, ...]) -> Grid:
        """The grid of a weight: groups run along rows, as other programs expect, if they are long.

        Args:
            shape: of the stored tensor.
        """
        return self if shape[1] >= SHORTEST else self.along_longer(shape)

    def along_longer(self, shape: tuple[int, ...]) -> Grid:
        """The grid with groups along the longer side of a matrix; of a square one, along rows."""
        return replace(self, columnwise=shape[0] > shape[1])

    @property
    def transposed(self) -> Grid:
        """The grid of a transposed matrix."""
        return replace(self, columnwise=not self.columnwise)

    def groups(self, entries: int) -> int:
        """Number of groups in a row of so many entries; the last may be shorter."""
        return -(-entries // self.group)

    def nbytes(self, outputs: int, inputs: int) -> int:
        """Bytes of a matrix's codes and scales: rows of codes fill whole words of 32 bits."""
        rows, entries = (inputs, outputs) if self.columnwise else (outputs, inputs)
        return rows * (4 * -(-entries * self.bits // 32) + 2 * self.groups(entries))

    def spread(self, scales: NDArray[np.floating], outputs: int, inputs: int) -> FloatArray:
        """The scale of each entry, shape (out, in), from one scale for each group."""
        entries = outputs if self.columnwise else inputs
        each = np.repeat(scales, self.group, axis=1)[:, :entries].astype(np.float64)
        return each.T if self.columnwise else each


@dataclass(frozen=True, slots=True, eq=False)
class Rounded:
    """A matrix in few bits.

    Attributes:
        grid: its grid.
        codes: shape (out, in), int8.
        scales: shape (out, groups), or (in, groups) if groups run along columns, as stored.
    """

    grid: Grid
    codes: NDArray[np.int8]
    scales: NDArray[np.float32]

    @property
    def transposed(self) -> Rounded:
        """The transposed matrix, in the same groups."""
        return Rounded(self.grid.transposed, self.codes.T, self.scales)

    @property
    def values(self) -> NDArray[np.float32]:
        """The rounded matrix, shape (out, in): codes times scales, exact in float32."""
        return (self.codes * self.grid.spread(self.scales, *self.codes.shape)).astype(np.float32)


def nearest(weight: FloatArray, grid: Grid, importance: FloatArray | None = None) -> Rounded:
    """Round every entry to the nearest value of the grid.

    Args:
        weight: shape (out, in).
        grid: the grid.
        importance: shape (in,): how much the squared error of each column counts when scales are
            chosen; all alike by default.
    """
    scales = choose_scales(weight, grid, importance)
    return Rounded(grid, codes_of(weight, grid.spread(scales, *weight.shape), grid), scales)


def codes_of(weight: FloatArray, scales: NDArray[np.floating], grid: Grid) -> NDArray[np.int8]:
    """The codes whose products with ``scales``, of the same shape, are nearest to ``weight``."""
    ratio = np.divide(weight, scales, out=np.zeros_like(weight, np.float64), where=scales != 0)
    codes = np.clip(np.rint(ratio), -grid.largest - 1, grid.largest)
    return np.asarray(codes, np.int8)


def choose_scales(
    weight: FloatArray, grid: Grid, importance: FloatArray | None = None
) -> NDArray[np.float32]:
    """The scale of each group with the least weighted squared error, as 16 bits hold it.

    There is one more code below 0 than above, and a negative scale gives it to the other side.

    Args:
        weight: shape (out, in).
        grid: the grid.
        importance: shape (in,), the weight of each column; all alike by default.

    Returns:
        One scale for each group of each row, or of each column. The values are those of float16, or
        of bfloat16 where a scale is not among the normal numbers of float16.
    """
    rows = weight.T if grid.columnwise else weight
    groups = grid.groups(rows.shape[1])
    fill = (0, groups * grid.group - rows.shape[1])
    entries = np.pad(rows, ((0, 0), fill)).reshape(len(rows), groups, grid.group)
    # In a group of a column, all entries have the same importance.
    same = importance is None or grid.columnwise
    counts = np.ones(rows.shape[1]) if same or importance is None else importance
    counts = np.pad(counts, fill).reshape(groups, grid.group)
    # The sign that gives the largest entry the code beyond the others is tried first.
    farthest = np.abs(entries).argmax(axis=2)[..., None]
    most = -np.take_along_axis(entries, farthest, axis=2)[..., 0]
    best, least = np.zeros_like(most), np.full_like(most, np.inf)
    errors = np.empty_like(entries)
    for share in SHARES:
        scales = as_stored(share * most / grid.largest).astype(np.float64)
        each = np.where(scales != 0, scales, 1.0)[..., None]
        np.rint(np.divide(entries, each, out=errors), out=errors)
        np.clip(errors, -grid.largest - 1, grid.largest, out=errors)
        np.subtract(np.multiply(errors, each, out=errors), entries, out=errors)
        loss = np.einsum("rgi,rgi,gi->rg", errors, errors, counts)
        better = loss < least
        best[better], least[better] = scales[better], loss[better]
    return as_stored(best)


def as_stored(scales: FloatArray) -> NDArray[np.float32]:
    """Scales rounded to the type in which they are stored."""
    if scale_type(scales) == "F16":
        return scales.astype(np.float16).astype(np.float32)
    bits = scales.astype(np.float32).view(np.uint32)
    return ((bits + 0x7FFF + ((bits >> 16) & 1)) & 0xFFFF0000).view(np.float32)


def scale_type(scales: NDArray[np.floating]) -> str:
    """The type in which scales are stored: float16 if all are among its normal numbers."""
    sizes = np.abs(scales[scales != 0])
    normal = not sizes.size or (sizes.min() >= 2.0**-14 and sizes.max() <= 65504.0)
    return "F16" if normal else "BF16"
