"""Figures as SVG elements, drawn in whole units and coloured by the page's style."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from markupsafe import Markup, escape

from rmtcli.arrays import FloatArray

#: Steps between ticks, times a power of ten.
_STEPS = (1.0, 2.0, 2.5, 5.0, 10.0)


@dataclass(frozen=True, slots=True)
class Axis:
    """A scale from values to units of the figure.

    Attributes:
        low: value at ``start``.
        high: value at ``end``.
        start: position of ``low``.
        end: position of ``high``.
        logarithmic: whether equal ratios are equally far apart.
    """

    low: float
    high: float
    start: int
    end: int
    logarithmic: bool = False

    def __call__(self, value: float) -> int:
        """The position of a value; the nearest end for one beyond it."""
        inside = min(max(value, self.low), self.high)
        if self.logarithmic:
            share = math.log(inside / self.low) / math.log(self.high / self.low)
        else:
            share = (inside - self.low) / (self.high - self.low)
        return round(self.start + share * (self.end - self.start))


def ticks(low: float, high: float, count: int) -> list[float]:
    """About ``count`` round values between two others."""
    width = (high - low) / count
    power = 10.0 ** math.floor(math.log10(width))
    step = power * next(step for step in _STEPS if step * power >= 0.999 * width)
    first, last = math.ceil(low / step - 1e-9), math.floor(high / step + 1e-9)
    return [index * step for index in range(first, last + 1)]


def powers(low: float, high: float) -> list[float]:
    """Powers of ten between two values, and 2 and 5 times these where they are few."""
    digits = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
    tens = [10.0**digit for digit in digits]
    more = [factor * ten for ten in tens for factor in (1, 2, 5)]
    inside = [value for value in tens if low <= value <= high]
    return inside if len(inside) > 3 else [value for value in more if low <= value <= high]


def stairs(x: Axis, y: Axis, borders: FloatArray, heights: Iterable[float]) -> str:
    """The outline of a histogram's bars as path data."""
    parts, zero = [f"M{x(borders[0])} {y(0)}"], y(0)
    drawn = zero
    for right, height in zip(borders[1:], heights, strict=True):
        if y(height) != drawn:
            drawn = y(height)
            parts.append(f"V{drawn}")
        parts.append(f"H{x(right)}")
    return _joined([*parts, f"V{zero}Z"])


def _joined(parts: Iterable[str]) -> str:
    """Path data without those horizontal moves that the next one continues."""
    kept: list[str] = []
    for part in parts:
        if kept and kept[-1][0] == part[0] == "H":
            kept.pop()
        kept.append(part)
    return "".join(kept)


def line(points: Iterable[tuple[int, int]]) -> str:
    """Points joined by lines, as path data."""
    return "M" + "L".join(f"{x} {y}" for x, y in points)


def path(data: str, kind: str) -> str:
    """A path in the style of a class."""
    return f'<path class="{kind}" d="{data}"/>'


def label(text: str, x: float, y: float, kind: str = "") -> str:
    """A text in the style of a class."""
    style = f' class="{kind}"' if kind else ""
    return f'<text x="{x}" y="{y}"{style}>{escape(text)}</text>'


def frame(x: Axis, y: Axis, x_ticks: Sequence[tuple[float, str]], y_ticks: Sequence[float]) -> str:
    """The two axes with their ticks and numbers.

    Args:
        x: the horizontal axis.
        y: the vertical axis.
        x_ticks: value and text of each tick.
        y_ticks: values.
    """
    marks = "".join(f"M{x(value)} {y.start}v8" for value, _ in x_ticks)
    rules = "".join(f"M{x.start} {y(value)}H{x.end}" for value in y_ticks)
    parts = [path(rules, "rules"), path(f"M{x.start} {y.start}H{x.end}{marks}", "axis")]
    parts += [label(text, x(value), y.start + 34) for value, text in x_ticks]
    parts += [label(f"{value:.6g}", x.start - 10, y(value) + 8, "end") for value in y_ticks]
    return "".join(parts)


def svg(parts: Iterable[str], size: tuple[int, int], text: str) -> Markup:
    """An SVG element, which a screen reader reads as a text."""
    return Markup(
        f'<svg viewBox="0 0 {size[0]} {size[1]}" role="img" aria-label="{escape(text)}">'
        f"{''.join(parts)}</svg>"
    )
