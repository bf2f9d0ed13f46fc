"""Actions of a pruner on a layer whose singular values are to be dropped."""

from __future__ import annotations

from enum import Enum

from rmtcli.errors import UsageError


class Action(Enum):
    """How a pruner drops singular values; the value is the name that a user gives."""

    SPLIT = "split"
    TRUNCATE = "truncate"
    HALVE = "halve"
    ABSORB = "absorb"

    @staticmethod
    def named(name: str) -> Action:
        """Return the action of this name.

        Raises:
            UsageError: there is no such action.
        """
        try:
            return Action(name)
        except ValueError:
            known = ", ".join(action.value for action in Action)
            raise UsageError(f"unknown action '{name}': choose one of {known}") from None
