"""Groups of options: a command's parameter that is a dataclass stands for all of its fields."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from dataclasses import MISSING, fields, is_dataclass
from functools import cache, wraps
from typing import Any, get_args, get_type_hints

from typer.models import OptionInfo


class Only:
    """Marks a group of which a command offers some fields; the others keep their defaults.

    For example ``selection: Annotated[SelectionOptions, Only("include", "exclude")]``.
    """

    def __init__(self, *fields: str) -> None:
        self.fields = fields


def expand_groups(command: Callable[..., None]) -> Callable[..., None]:
    """Show Typer each field of a command's groups as an option of its own.

    Args:
        command: its parameters are keyword-only. One that is annotated with a dataclass is a
            group; the dataclass's fields are annotated like any option of Typer.

    Returns:
        A function with one parameter per option, named for the option. It passes each group to
        the command as one value.
    """
    parameters: list[inspect.Parameter] = []
    groups: dict[str, tuple[type, dict[str, inspect.Parameter]]] = {}
    hints = get_type_hints(command, include_extras=True)
    for name, parameter in inspect.signature(command).parameters.items():
        annotation, *extras = get_args(hints[name]) or [hints[name]]
        if is_dataclass(annotation) and isinstance(annotation, type):
            options = _options(annotation, *(extra for extra in extras if isinstance(extra, Only)))
            groups[name] = annotation, options
            parameters += options.values()
        else:
            parameters.append(parameter.replace(annotation=hints[name]))

    @wraps(command)
    def expanded(**values: Any) -> None:
        for name, (group, options) in groups.items():
            values[name] = group(**{field: values.pop(o.name) for field, o in options.items()})
        command(**values)

    expanded.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
    expanded.__annotations__ = {parameter.name: parameter.annotation for parameter in parameters}
    return expanded


def _options(group: type, only: Only | None = None) -> dict[str, inspect.Parameter]:
    """The parameter that Typer sees for each field of a group, by the field's name."""
    hints = _hints(group)
    defaults = {field.name: field.default for field in fields(group)}
    options = {}
    for field in only.fields if only else defaults:
        info = next(extra for extra in get_args(hints[field]) if isinstance(extra, OptionInfo))
        # In an annotation, Typer holds the first name of an option as the option's default.
        name = info.default if isinstance(info.default, str) else field
        options[field] = inspect.Parameter(
            name.lstrip("-").replace("-", "_"),
            inspect.Parameter.KEYWORD_ONLY,
            default=inspect.Parameter.empty if defaults[field] is MISSING else defaults[field],
            annotation=hints[field],
        )
    return options


@cache  # most groups are part of several commands
def _hints(group: type) -> dict[str, Any]:
    return get_type_hints(group, include_extras=True)


def given(group: Any) -> dict[str, Any]:
    """The values of a group by field, without those that are None because nothing was given."""
    values = {field.name: getattr(group, field.name) for field in fields(group)}
    return {name: value for name, value in values.items() if value is not None}
