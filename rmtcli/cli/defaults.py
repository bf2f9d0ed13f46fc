"""A project's own defaults of options, from ``rmtcli.toml`` or ``[tool.rmtcli]``."""

from __future__ import annotations

import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from rmtcli.errors import UsageError

#: Options that name code: functions to import, and a scheduler whose messages are unpickled. A
#: folder may come from a stranger, so they are given on the command line only.
_CODE = ("model", "eval", "executor")


def defaults(commands: Mapping[str, Any], folder: Path) -> dict[str, dict[str, Any]]:
    """Options by command, as click's ``default_map``, from the nearest file at or above a folder.

    The file has one table per command, with options by their long names: ``[prune]``,
    ``keep = "edge"``. The command line overrides them.

    Args:
        commands: click's commands by name.
        folder: the current directory.

    Raises:
        UsageError: the file is not valid TOML, names a command or an option that does not exist,
            or sets an option that names code.
    """
    for directory in (folder, *folder.parents):
        for path, table in (
            (directory / "rmtcli.toml", ()),
            (directory / "pyproject.toml", ("tool", "rmtcli")),
        ):
            tables = _read(path, table)
            if tables is not None:
                return _checked(commands, tables, path)
    return {}


def _read(path: Path, table: tuple[str, ...]) -> Any:
    """A file's table; None if the file or the table does not exist."""
    if not path.is_file():
        return None
    try:
        value: Any = tomllib.loads(path.read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as error:
        if table:
            return None  # pyproject.toml belongs to other tools, which report its errors
        raise UsageError(f"{path}: not valid TOML: {error}") from None
    for name in table:
        value = value.get(name) if isinstance(value, dict) else None
    return value


def _checked(commands: Mapping[str, Any], tables: Any, path: Path) -> dict[str, dict[str, Any]]:
    """Options by command and by the parser's own names."""
    result: dict[str, dict[str, Any]] = {}
    for name, options in tables.items() if isinstance(tables, dict) else ():
        command = commands.get(name)
        if command is None or not isinstance(options, dict):
            raise UsageError(
                f"{path}: '{name}' is not a command: put options under a command's name, "
                "such as [prune]"
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
            if option in _CODE:
                raise UsageError(
                    f"{path}: [{name}] sets '{option}', which names code to run: remove it there, "
                    f"and give --{option} on the command line"
                )
            result.setdefault(name, {})[known[option]] = value
    return result
