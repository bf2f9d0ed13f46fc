"""Quality against size on the page."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from markupsafe import Markup

from rmtcli.report.advice import chosen
from rmtcli.report.base import Report
from rmtcli.report.curve import Point
from rmtcli.report.headline import sizes
from rmtcli.report.plot import quality
from rmtcli.report.renderers.html.svg import Axis, frame, label, line, path, powers, svg, ticks

#: Width and height in units.
SIZE = (1000, 420)
#: Share of the dense network's quality below which a curve says only that the network is broken.
INTERESTING = 0.95


@dataclass(frozen=True, slots=True)
class _Point:
    """A network: share of the parameters in percent, quality, and its standard error."""

    share: float
    value: float
    error: float


def curve_svg(report: Report) -> Markup:
    """Quality against the share of parameters, with the smallest network that costs little.

    The vertical axis shows the interesting part: networks that have lost more than a
    twentieth of the quality are drawn at its lower end, by another mark.

    Args:
        report: the report of ``curve``.
    """
    name, rises, dense = _measure(report)
    points = [point for point in _points(report, name) if point is not None]
    values = [point.value for point in points] + ([] if dense is None else [dense])
    low, high = _interesting(values, dense, rises=rises)
    pad = 0.06 * (high - low)
    x = Axis(*_shares(points), 110, 980, logarithmic=True)
    y = Axis(low - pad, high + pad, 330, 20)
    best, unit = chosen(report), sizes(report)[2]
    best_share = 0.0 if best is None else _share(report, best)
    parts = [frame(x, y, [(v, f"{v:g}") for v in powers(x.low, x.high)], ticks(y.low, y.high, 5))]
    parts += [_band(points, x, y), _dense_line(dense, x, y)]
    parts.append(path(line((x(point.share), y(point.value)) for point in points), "law"))
    parts += [_dot(point, x, y, best_share) for point in points]
    parts += [label(f"{unit} left, % (logarithmic)", 545, 406), label(name, 30, 175, "rotated")]
    outside = sum(not low <= point.value <= high for point in points)
    more = f" {outside} of them are beyond the axis, which shows the interesting part." * bool(
        outside
    )
    text = f"{name} of {len(points)} networks against their size; the table has the numbers.{more}"
    return svg(parts, SIZE, text)


def _measure(report: Report) -> tuple[str, bool, float | None]:
    """The measure of quality, whether it rises with the loss, and that of the dense network."""
    comparison = report.curve[0].comparison
    before, after = comparison.before, comparison.after
    if after.perplexity is not None:
        return "perplexity", True, None if before is None else before.perplexity
    if after.accuracy is None:
        return "score", False, None if before is None else before.score
    return quality(comparison), False, None if before is None else before.accuracy


def _points(report: Report, name: str) -> list[_Point | None]:
    points = []
    for point in report.curve:
        after = point.comparison.after
        value = {"perplexity": after.perplexity, "score": after.score}.get(name, after.accuracy)
        share = _share(report, point)
        error = 0.0 if name in ("perplexity", "score") else point.error or 0.0
        points.append(None if value is None else _Point(share, value, error))
    return points


def _share(report: Report, point: Point) -> float:
    before, after, _ = sizes(report, point)
    return 100 * after / before


def _interesting(
    values: Sequence[float], dense: float | None, *, rises: bool
) -> tuple[float, float]:
    """The range of values that the axis shows."""
    low, high = min(values), max(values)
    if dense is not None and dense > 0:
        if rises:
            high = min(high, dense / INTERESTING)
        else:
            low = max(low, INTERESTING * dense)
    return (low, high) if high > low else (low - 1, high + 1)


def _shares(points: Sequence[_Point]) -> tuple[float, float]:
    shares = [point.share for point in points]
    return 0.9 * min(shares), max(1.1 * max(shares), 1.3 * min(shares))


def _band(points: Sequence[_Point], x: Axis, y: Axis) -> str:
    """One standard error to both sides."""
    if not any(point.error for point in points):
        return ""
    upper = [(x(point.share), y(point.value + point.error)) for point in points]
    lower = [(x(point.share), y(point.value - point.error)) for point in reversed(points)]
    return path(f"{line([*upper, *lower])}Z", "band")


def _dense_line(dense: float | None, x: Axis, y: Axis) -> str:
    if dense is None:
        return ""
    text = label(f"dense {dense:.6g}", x.end, y(dense) - 8, "end")
    return path(f"M{x.start} {y(dense)}H{x.end}", "edge") + text


def _dot(point: _Point, x: Axis, y: Axis, best: float) -> str:
    """A network as a dot; as a ring where it is chosen, and as an arrow beyond the axis."""
    left, top = x(point.share), y(point.value)
    if not y.low <= point.value <= y.high:
        way = 1 if top == y.start else -1
        return path(f"M{left - 9} {top - 14 * way}h18l-9 {14 * way}Z", "beyond")
    dot = f'<circle cx="{left}" cy="{top}" r="6" class="kept"/>'
    if point.share != best:
        return dot
    ring = f'<circle cx="{left}" cy="{top}" r="13" class="chosen"/>'
    return ring + dot + label(f"{point.share:.3g} %: {point.value:.6g}", left, top + 40)
