"""The options that messages name, as their reader writes them.

A message is read by someone who typed ``--max-drop 0.5`` or by someone who wrote ``max_drop=0.5``.
The command line says which, once; everything else just names the option.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

#: What Python's functions call options of the command line that have another name there, or are
#: parts of a value; an ellipsis stands for the option's value.
PYTHON = {
    "batch": "batches=",
    "calib": "calibration=",
    "eval": "score=",
    "include": "Selection(include=…)",
    "exclude": "Selection(exclude=…)",
    "min-side": "Selection(min_side=…)",
    "conv": "Selection(convolutions=True)",
    "recurrent": "Selection(recurrent=True)",
    "embeddings": "Selection(embeddings=True)",
    "sequential": "Calibration(sequential=True)",
    "heal": "Calibration(heal=…)",
    "heal-minutes": "Calibration(heal_minutes=…)",
    "size": "sizes=",
    "stats": "Calibration(stats=…)",
    "spill": "Calibration(spill=…)",
    "metric": "Calibration(metric=…)",
    "budget-bytes": 'Budget(…, "bytes")',
    "budget-macs": 'Budget(…, "macs")',
    "budget-latency": 'Budget(…, "ms")',
}

#: Options whose values are patterns, which a shell would expand.
QUOTED = ("include", "exclude")

_typed = False


@contextmanager
def on_command_line() -> Iterator[None]:
    """Spell options as the command line does, in this process as long as the block runs."""
    global _typed
    before, _typed = _typed, True
    try:
        yield
    finally:
        _typed = before


def option(name: str, value: object = None) -> str:
    """An option as a user writes it, perhaps with a value.

    >>> option("max-drop", 0.5), option("exclude"), option("exclude", "fc1.weight")
    ('max_drop=0.5', 'Selection(exclude=…)', 'Selection(exclude="fc1.weight")')

    On the command line these are ``--max-drop 0.5``, ``--exclude`` and ``--exclude 'fc1.weight'``.

    Args:
        name: the option's name on the command line, without the hyphens before it.
        value: a text or a number.
    """
    words = f"{value:g}" if isinstance(value, float) else str(value)
    if _typed:
        words = f"'{words}'" if name in QUOTED else words
        return f"--{name}" if value is None else f"--{name} {words}"
    own = PYTHON.get(name, f"{name.replace('-', '_')}=")
    if value is None:
        return own
    words = f'"{words}"' if isinstance(value, str) else words
    return own.replace("…", words) if "…" in own else own + words
