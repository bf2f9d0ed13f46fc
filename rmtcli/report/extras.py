"""Optional packages that reports need."""

from __future__ import annotations

from importlib.util import find_spec

from rmtcli.errors import UsageError


def check_extra(what: str, *modules: str) -> None:
    """Check, before any work is done, that optional packages are installed.

    Args:
        what: subject and verb of the message, such as ``figures need``.
        modules: import names of the packages.

    Raises:
        UsageError: one of them is not installed.
    """
    for module in modules:
        if find_spec(module) is None:
            raise UsageError(f"{what} {module}: pip install {module}")
