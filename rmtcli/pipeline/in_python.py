"""Messages and notes with options as Python has them, where no command line was typed."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager

from rmtcli.errors import RmtcliError

#: Options of the command line that have another name or home in Python.
_OWN = {
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
    "stats": "Calibration(stats=…)",
    "metric": "Calibration(metric=…)",
    "clean": "Calibration(clean=…)",
    "budget-bytes": 'Budget(…, "bytes")',
    "budget-macs": 'Budget(…, "macs")',
    "budget-latency": 'Budget(…, "ms")',
}
#: An option, and a value after it that is one for certain.
_OPTION = re.compile(
    r"--([a-z]+(?:-[a-z]+)*)(?: (FILE|'[^']*'|[\d.]+%?(?![\w%])|(?:none|auto)\b))?"
)


def in_python(text: str) -> str:
    """A sentence with Python's parameters in place of the command line's options."""
    return _OPTION.sub(_parameter, text)


@contextmanager
def python_errors() -> Iterator[None]:
    """Let errors in a block name parameters of Python.

    Raises:
        RmtcliError: of the type of the error in the block.
    """
    try:
        yield
    except RmtcliError as error:
        text = in_python(str(error))
        if text == str(error):
            raise
        raise type(error)(text) from None


def _parameter(match: re.Match[str]) -> str:
    option, value = match[1], match[2]
    own = _OWN.get(option, f"{option.replace('-', '_')}=")
    if value is None or value == "FILE":
        return own
    word = "%" in value or value.isalpha()
    written = f'"{value}"' if word and value[0] != "'" else value
    return own.replace("…", written) if "…" in own else f"{own}{written}"
