"""Names and numbers as a report shows them."""

from __future__ import annotations

from collections.abc import Sequence

from rmtcli.edges import Verdict
from rmtcli.errors import one_line
from rmtcli.planning import Timing

#: Names listed before the rest is only counted.
LISTED = 5


def shown(text: str) -> str:
    """A name or text from a file on one line, with unprintable characters as escapes."""
    return one_line(text)


def count_of(number: int, noun: str) -> str:
    """A number and its noun: ``1 layer``, ``2 passes``."""
    plural = f"{noun}es" if noun.endswith("s") else f"{noun}s"
    return f"{number} {noun if number == 1 else plural}"


def some_of(names: Sequence[str]) -> str:
    """The first :data:`LISTED` names, and how many more there are."""
    more = f" and {len(names) - LISTED} more" if len(names) > LISTED else ""
    return ", ".join(names[:LISTED]) + more


def percent_change(before: float, after: float) -> str:
    """The relative change, such as ``-94.1 %``."""
    if not before:
        return "new" if after else "none"
    return f"{100 * (after / before - 1) + 0.0:+.1f} %"


def before_after(before: int, after: int, unit: str = "") -> str:
    """Two counts and the relative change: ``100 → 50 bytes (-50.0 %)``."""
    return f"{before:,} → {after:,} {unit}".rstrip() + f" ({percent_change(before, after)})"


def optional(value: float | None, form: str, unit: str = "") -> str:
    """A number in a format, or an empty text where it was not measured."""
    return "" if value is None else f"{value:{form}}{unit}"


def significant(value: float, digits: int = 4) -> str:
    """A number with so many significant digits, final zeros among them: columns line up.

    >>> significant(0.301), significant(100, 3), significant(0)
    ('0.3010', '100', '0')
    """
    return f"{value:#.{digits}g}".removesuffix(".") if value else "0"


def milliseconds(seconds: float) -> str:
    """A time in milliseconds, with three digits."""
    return f"{_thousandths(seconds)} ms"


def _thousandths(value: float) -> str:
    return f"{1e3 * value:,.0f}" if value >= 1 else f"{1e3 * value:.3g}"


def timing(time: Timing) -> str:
    """A median in milliseconds, with its quartiles in brackets."""
    return f"{milliseconds(time.median)} [{_thousandths(time.low)}–{_thousandths(time.high)}]"


def time_change(before: Timing, after: Timing) -> str:
    """The relative change of a median, and whether the times vary by as much."""
    change = f"{100 * (after.median / before.median - 1) + 0.0:+.0f} %"
    same = before is after or before == after
    return change if same or after.differs(before) else f"{change}, within their spread"


def memory(size: int) -> str:
    """A number of bytes in kB or MB, rounded."""
    return f"{size / 2**20:,.0f} MB" if size >= 2**20 else f"{size / 2**10:,.0f} kB"


def shape_of(shape: tuple[int, int]) -> str:
    """A shape such as ``512×784``."""
    return f"{shape[0]}×{shape[1]}"


def word_of(verdict: Verdict) -> str:
    """The short name of a verdict, such as ``heavy tailed``."""
    return verdict.name.lower().replace("_", " ")
