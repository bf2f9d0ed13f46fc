"""A project's own defaults for options, from ``rmtcli.toml`` or ``[tool.rmtcli]``."""

from __future__ import annotations

import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from rmtcli.errors import UsageError


def defaults(commands: Mapping[str, Any], folder: Path) -> dict[str, dict[str, Any]]:
    """Options by command, as click takes them, from the nearest file at or above a folder.

    A table a command, and in it its options by their long names: ``[prune]``, ``keep = "edge"``.
    The command line overrides them.

    Args:
        commands: click's commands by name.
        folder: where the program is run.

    Raises:
        UsageError: the file is not TOML, or names a command or an option that there is not.
    """
    for place in (folder, *folder.parents):
        for path, table in (
            (place / "rmtcli.toml", ()),
            (place / "pyproject.toml", ("tool", "rmtcli")),
        ):
            found = _read(path, table)
            if found is not None:
                return _checked(commands, found, path)
    return {}


def _read(path: Path, table: tuple[str, ...]) -> Any:
    """The table of a file; None where there is no file or no such table."""
    if not path.is_file():
        return None
    try:
        found: Any = tomllib.loads(path.read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as error:
        if table:
            return None  # another tool's file: its own errors are not ours to report
        raise UsageError(f"{path}: not TOML: {error}") from None
    for name in table:
        found = found.get(name) if isinstance(found, dict) else None
    return found


def _checked(commands: Mapping[str, Any], tables: Any, path: Path) -> dict[str, dict[str, Any]]:
    result: dict[str, dict[str, Any]] = {}
    for name, options in tables.items() if isinstance(tables, dict) else ():
        command = commands.get(name)
        if command is None or not isinstance(options, dict):
            raise UsageError(
                f"{path}: '{name}' is no command: write options under [prune] and so on"
            )
        known = {
            option.lstrip("-"): parameter.name
            for parameter in command.params
            if parameter.param_type_name == "option"
            for option in parameter.opts
            if option.startswith("--")
        }
        for option, value in options.items():
            if known.get(option) is None:
                raise UsageError(f"{path}: [{name}] has no option '{option}'")
            result.setdefault(name, {})[known[option]] = value
    return result
