"""What reports need beyond rmtcli's own requirements (the extra ``report``)."""

from __future__ import annotations

from importlib.util import find_spec

from rmtcli.errors import UsageError


def check_extra(what: str, *modules: str) -> None:
    """Make sure, before any work, that these modules can be imported.

    Args:
        what: what needs them, in the plural, for the message.
        modules: their import names.

    Raises:
        UsageError: one is not installed.
    """
    for module in modules:
        if find_spec(module) is None:
            raise UsageError(f"{what} need {module}: pip install 'rmtcli[report]'")
