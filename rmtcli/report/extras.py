"""What reports and conditions need beyond rmtcli's own requirements."""

from __future__ import annotations

from importlib.util import find_spec

from rmtcli.errors import UsageError


def check_extra(what: str, *modules: str, extra: str = "report") -> None:
    """Make sure, before any work, that these modules can be imported.

    Args:
        what: what needs them and the verb, for the message: ``figures need``.
        modules: their import names.
        extra: the extra that brings them.

    Raises:
        UsageError: one is not installed.
    """
    for module in modules:
        if find_spec(module) is None:
            raise UsageError(f"{what} {module}: pip install 'rmtcli[{extra}]'")
