"""PEFT's configuration of ranks and alphas, one for all modules and others by patterns of names.

A pattern is a regular expression for the end of a module's name: it begins at the name's start or
after a dot. The first pattern that matches counts.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from rmtcli.errors import CheckpointError

#: Characters of a pattern, and repetitions of any length in it. Python's ``re`` can take more than
#: a lifetime for others, and a configuration comes from anywhere.
_LONGEST, _REPETITIONS = 1000, 2
#: A repeated group, a reference to a group, or a number of repetitions.
_SLOW = re.compile(r"\)[*+?{]|\(\?P?[=<!]|\\\d|\{")
#: Characters that mean themselves in a pattern, or, as the dot, match themselves.
_LITERAL = re.compile(r"[\w.-]+")


class Patterns:
    """The rank and alpha of each module.

    Args:
        path: the configuration's file, for messages.
        config: what it holds.

    Raises:
        CheckpointError: an entry is missing, not a number, or not a pattern.
    """

    def __init__(self, path: Path, config: Mapping[str, Any]) -> None:
        self._path = path
        self._default_rank = self._number("r", config.get("r"), whole=True)
        self._default_alpha = self._number("lora_alpha", config.get("lora_alpha"), whole=False)
        self._ranks = self._table("rank_pattern", config, whole=True)
        self._alphas = self._table("alpha_pattern", config, whole=False)

    def rank(self, module: str) -> int:
        """The rank of a module."""
        return int(_matched(self._ranks, module, self._default_rank))

    def alpha(self, module: str) -> float:
        """The alpha of a module."""
        return _matched(self._alphas, module, self._default_alpha)

    def _number(self, entry: str, value: object, *, whole: bool) -> float:
        """A number of the configuration.

        Raises:
            CheckpointError: it is not one, or no rank.
        """
        kinds = int if whole else (int, float)
        number = value if isinstance(value, kinds) and not isinstance(value, bool) else None
        if number is None or not abs(number) < 2**53 or (whole and number < 1):
            wanted = "a whole number from 1 on" if whole else "a number"
            raise CheckpointError(f"{self._path}: '{entry}' is {value!r}, which is not {wanted}")
        return number

    def _table(
        self, entry: str, config: Mapping[str, Any], *, whole: bool
    ) -> list[tuple[re.Pattern[str], float]]:
        """The patterns of an entry with their numbers.

        Raises:
            CheckpointError: the entry is not an object, or a pattern cannot be used.
        """
        table = config.get(entry) or {}
        if not isinstance(table, dict):
            raise CheckpointError(f"{self._path}: '{entry}' is not an object of patterns")
        return [
            (self._pattern(entry, key), self._number(entry, value, whole=whole))
            for key, value in table.items()
        ]

    def _pattern(self, entry: str, key: str) -> re.Pattern[str]:
        """A pattern as PEFT compiles it.

        Raises:
            CheckpointError: it is not a regular expression, or one that may take forever.
        """
        repetitions = key.count("*") + key.count("+")
        if len(key) > _LONGEST or repetitions > _REPETITIONS or _SLOW.search(key):
            raise CheckpointError(
                f"{self._path}: '{entry}' has the pattern {key[:60]!r}, which may take too long to "
                "match: write the modules' full names"
            )
        try:
            return re.compile(rf"(.*\.)?({key})$")
        except re.error as error:
            raise CheckpointError(
                f"{self._path}: '{entry}' has the pattern {key[:60]!r}, which is not a regular "
                f"expression ({error})"
            ) from None


def _matched(table: list[tuple[re.Pattern[str], float]], module: str, default: float) -> float:
    """The number of the first pattern that matches a module."""
    return next((number for pattern, number in table if pattern.match(module)), default)


def explicit(values: Mapping[str, float], default: float) -> dict[str, float]:
    """The patterns by which PEFT gives each module its own value.

    Each pattern is a full name. It would also match a longer name with the same end, so long names
    come first, and a module with the default value has a pattern if another one would match it.

    Args:
        values: the value of each module.
        default: the value of modules that no pattern matches.
    """
    others = {module for module, value in values.items() if value != default}
    needed = [module for module in values if module in others or others & set(_ends(module))]
    needed.sort(key=len, reverse=True)
    return {
        module if _LITERAL.fullmatch(module) else re.escape(module): values[module]
        for module in needed
    }


def _ends(module: str) -> list[str]:
    """The ends of a name that begin after a dot."""
    parts = module.split(".")
    return [".".join(parts[i:]) for i in range(1, len(parts))]


def tidy(number: float) -> float:
    """A number as an integer, where it is one, as people write alphas."""
    return int(number) if math.isfinite(number) and number == int(number) else number
