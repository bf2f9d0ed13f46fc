"""A map of rectangles whose areas are given, in the order that they have."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate

#: A last strip that is lower than this share of the map joins the one above.
THIN = 0.06


@dataclass(frozen=True, slots=True)
class Box:
    """A rectangle in percent of the map's sides."""

    left: float
    top: float
    width: float
    height: float


def strips(areas: Sequence[float], aspect: float) -> list[Box]:
    """Divide a map into strips from top to bottom, and each strip from left to right.

    A strip takes the next rectangle as long as that brings its rectangles closer to squares
    (strip treemap; Bederson, Shneiderman and Wattenberg, ACM Transactions on Graphics 21, 2002).

    Args:
        areas: all above 0.
        aspect: width of the map divided by its height.

    Returns:
        One rectangle per area, in the same order.
    """
    rows: list[list[float]] = [[]]
    for area in (area / sum(areas) for area in areas):
        strip = rows[-1]
        if strip and _slenderness([*strip, area], aspect) > _slenderness(strip, aspect):
            rows.append([])
        rows[-1].append(area)
    if len(rows) > 1 and sum(rows[-1]) < THIN:
        rows[-2:] = [rows[-2] + rows[-1]]
    tops = accumulate((sum(row) for row in rows), initial=0.0)
    return [box for row, top in zip(rows, tops, strict=False) for box in _row(row, top)]


def _slenderness(strip: Sequence[float], aspect: float) -> float:
    """Mean ratio of the longer to the shorter side of a strip's rectangles, by area."""
    height = sum(strip)
    ratios = [aspect * area / height**2 for area in strip]
    return sum(area * max(r, 1 / r) for area, r in zip(strip, ratios, strict=True)) / height


def _row(strip: Sequence[float], top: float) -> list[Box]:
    """The rectangles of one strip, whose areas are shares of the map."""
    boxes, left, height = [], 0.0, sum(strip)
    for area in strip:
        width = area / height
        boxes.append(Box(100 * left, 100 * top, 100 * width, 100 * height))
        left += width
    return boxes
