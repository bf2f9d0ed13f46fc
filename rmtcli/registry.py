"""Named choices: frozen dataclasses whose fields are the options that a user may set.

A choice is written ``name`` or ``name:field=value,field=value``. The command line, the reports
and ``rmtcli methods`` read the options from the fields. Another package adds a choice by an entry
point in the registry's group, for example ``rmtcli.keep``, whose value is the class.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import MISSING, dataclass, fields
from functools import cached_property
from importlib.metadata import entry_points
from typing import Any, Generic, TypeVar, get_type_hints

from rmtcli.errors import UsageError

T = TypeVar("T")
C = TypeVar("C", bound=type[Any])


@dataclass(frozen=True, slots=True)
class Option:
    """One field of a choice; ``default`` is None where the user must give a value."""

    name: str
    type: type[int] | type[float]
    default: int | float | None


class Registry(Generic[T]):
    """All choices of one kind.

    Args:
        kind: name of a choice in messages, such as ``keep rule``.
        group: the entry-point group through which other packages add choices.
    """

    def __init__(self, kind: str, group: str) -> None:
        self.kind = kind
        self.group = group
        self._built_in: dict[str, type[T]] = {}

    def register(self, name: str) -> Callable[[C], C]:
        """Return a class decorator that registers a choice under ``name``."""

        def add(choice: C) -> C:
            self._built_in[name] = choice
            return choice

        return add

    @cached_property
    def choices(self) -> Mapping[str, type[T]]:
        """Every choice by name; an entry point cannot replace a built-in choice."""
        added = {
            point.name: point.load()
            for point in entry_points(group=self.group)
            if point.name not in self._built_in
        }
        return self._built_in | added

    def options(self, name: str) -> tuple[Option, ...]:
        """Return the options of one choice, in the order of its fields."""
        choice: Any = self.choices[name]
        types = get_type_hints(choice)
        return tuple(
            Option(f.name, types[f.name], None if f.default is MISSING else f.default)
            for f in fields(choice)
        )

    def reference(self, name: str) -> str | None:
        """Return the publication that a choice comes from: its class variable ``reference``.

        Returns:
            The citation, or None for a choice without one.
        """
        cited = getattr(self.choices[name], "reference", None)
        return cited if isinstance(cited, str) else None

    def parse(self, text: str) -> T:
        """Return the choice that ``text`` describes.

        Raises:
            UsageError: the name or an option is unknown, an option is missing or given twice, or a
                value is out of range.
        """
        name, _, rest = text.partition(":")
        if name not in self.choices:
            known = ", ".join(self.choices)
            raise UsageError(f"unknown {self.kind} '{name}': choose one of {known}")
        types = {option.name: option.type for option in self.options(name)}
        values = {}
        for item in filter(None, rest.split(",")):
            key, equals, value = (part.strip() for part in item.partition("="))
            if not equals or key not in types:
                raise UsageError(f"{self.kind} '{text}': '{item}' is not {self._form(name)}")
            if key in values:
                raise UsageError(f"{self.kind} '{text}': {key} is given twice")
            try:
                values[key] = types[key](value)
            except ValueError:
                expected = {int: "a whole number", float: "a number"}[types[key]]
                raise UsageError(
                    f"{self.kind} '{text}': {key} must be {expected}, not '{value}'"
                ) from None
        missing = [o.name for o in self.options(name) if o.default is None and o.name not in values]
        if missing:
            raise UsageError(f"{self.kind} '{text}': give {self._form(name)}")
        try:
            return self.choices[name](**values)
        except ValueError as error:
            raise UsageError(f"{self.kind} '{text}': {error}") from None

    def spell(self, choice: T) -> str:
        """Return the text that describes ``choice`` to :meth:`parse`, with all options."""
        name = next(key for key, cls in self.choices.items() if cls is type(choice))
        options = ",".join(f"{o.name}={getattr(choice, o.name)}" for o in self.options(name))
        return f"{name}:{options}" if options else name

    def _form(self, name: str) -> str:
        """Return how an option of a choice is written, for messages."""
        known = self.options(name)
        if not known:
            return f"an option of '{name}', which has none"
        return "an option: write " + " or ".join(f"{name}:{o.name}=…" for o in known)
