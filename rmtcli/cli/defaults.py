"""A project's own defaults of options, from ``rmtcli.toml`` or ``[tool.rmtcli]``."""

from __future__ import annotations

from collections.abc import Mapping
from contextvars import ContextVar
from pathlib import Path
from typing import Any

from rmtcli.errors import UsageError

#: Options that name code: functions to import, and a scheduler whose messages are unpickled. A
#: folder may come from a stranger, so they are given on the command line only.
_CODE = ("model", "eval", "executor")


#: The defaults that a command has taken, and their file, in words; empty where it took none.
TAKEN: ContextVar[str] = ContextVar("the defaults that a command has taken", default="")
#: Options that decide one thing: one on the command line takes the place of all in the file.
_ONE_THING = (
    "budget",
    "budget-bytes",
    "budget-macs",
    "budget-latency",
    "max-drop",
    "keep",
    "apply",
)
#: Options that are for some of these alone.
_WITH_IT = ("rank-multiple", "share-inputs", "per-block")


def defaults(
    commands: Mapping[str, Any], folder: Path
) -> tuple[dict[str, dict[str, Any]], Path | None]:
    """Options by command, as click's ``default_map``, from the nearest file at or above a folder.

    The file has one table per command, with options by their long names: ``[prune]``,
    ``keep = "edge"``. The command line overrides them.

    Returns:
        The options, and the file; None without one.

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
                return _checked(commands, tables, path), path
    return {}, None


def _read(path: Path, table: tuple[str, ...]) -> Any:
    """A file's table; None if the file or the table does not exist."""
    if not path.is_file():
        return None
    import tomllib

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


def apply_defaults(command: Any, ctx: Any) -> None:
    """Let options on the command line replace defaults that decide the same thing.

    What is left of a file's defaults is kept in :data:`TAKEN`.

    Args:
        command: click's command.
        ctx: its context, after parsing; the object of its root is the file.
    """
    own = {option: p for p in command.params for option in map(_bare, getattr(p, "opts", ()))}
    sources = {name: str(ctx.get_parameter_source(p.name)) for name, p in own.items()}
    typed = [name for name in _ONE_THING if "COMMANDLINE" in sources.get(name, "")]
    taken = []
    for name, parameter in own.items():
        if not sources[name].endswith("DEFAULT_MAP"):
            continue
        if typed and name in (*_ONE_THING, *_WITH_IT):
            ctx.params[parameter.name] = parameter.default
        else:
            taken.append(_spelled(name, ctx.params[parameter.name]))
    TAKEN.set(f"{', '.join(taken)} of {ctx.find_root().obj}" if taken else "")


def _bare(option: str) -> str:
    return option.lstrip("-")


def _spelled(name: str, value: Any) -> str:
    """An option as it would be typed."""
    if isinstance(value, bool):
        return f"--{name}"
    values = value if isinstance(value, list | tuple) else [value]
    return " ".join(f"--{name} {one}" for one in values)
