"""Named choices: frozen dataclasses whose fields are the options that a user may set.

A choice is written ``name`` or ``name:field=value,field=value``. The command line, the reports
and ``rmtcli methods`` read the options from the fields. Another package adds a choice by an entry
point in the registry's group, for example ``rmtcli.keep``, whose value is the class.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import MISSING, dataclass, fields
from difflib import get_close_matches
from functools import cache, cached_property
from importlib import import_module
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
        built_in: the choices that have a module of their name each, in the package that is named
            as the group, in the order in which they are listed. The module of a choice is imported
            when the choice is asked for.
    """

    def __init__(self, kind: str, group: str, *, built_in: Sequence[str] = ()) -> None:
        self.kind = kind
        self.group = group
        self._modules = {name: f"{group}.{name.replace('-', '_')}" for name in built_in}
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
        for module in self._modules.values():
            import_module(module)
        added = {
            point.name: point.load()
            for point in entry_points(group=self.group)
            if point.name not in self._built_in
        }
        names = dict.fromkeys((*self._modules, *self._built_in))
        return {name: self._built_in[name] for name in names} | added

    def _get(self, name: str) -> type[T] | None:
        """Return a choice by name; entry points are read only where it is not built in.

        Reading them takes longer than the analysis of a small network.
        """
        if name in self._modules:
            import_module(self._modules[name])
        return self._built_in.get(name) or self.choices.get(name)

    def options(self, name: str) -> tuple[Option, ...]:
        """Return the options of one choice, in the order of its fields."""
        choice: Any = self._get(name)
        return _options(choice)

    def reference(self, name: str) -> str | None:
        """Return the publication that a choice comes from: its class variable ``reference``.

        Returns:
            The citation, or None for a choice without one.
        """
        cited = getattr(self._get(name), "reference", None)
        return cited if isinstance(cited, str) else None

    def parse(self, text: str) -> T:
        """Return the choice that ``text`` describes.

        Raises:
            UsageError: the name or an option is unknown, an option is missing or given twice, or a
                value is out of range.
        """
        name, _, rest = text.partition(":")
        choice = self._get(name)
        if choice is None:
            raise UsageError(f"unknown {self.kind} '{text}': {self._meant(text)}")
        types = {option.name: option.type for option in self.options(name)}
        values = {}
        for item in filter(None, rest.split(",")):
            key, equals, value = (part.strip() for part in item.partition("="))
            if not equals or key not in types:
                form = self._form(name, None if equals else item)
                raise UsageError(f"{self.kind} '{text}': '{item}' is not {form}")
            if key in values:
                raise UsageError(f"{self.kind} '{text}': {key} is given twice")
            try:
                values[key] = _number(value, types[key])
            except ValueError:
                expected = {int: "a whole number", float: "a number"}[types[key]]
                raise UsageError(
                    f"{self.kind} '{text}': {key} must be {expected}, not '{value}'"
                ) from None
        missing = [o.name for o in self.options(name) if o.default is None and o.name not in values]
        if missing:
            raise UsageError(f"{self.kind} '{text}': give {self._form(name)}")
        try:
            return choice(**values)
        except ValueError as error:
            raise UsageError(f"{self.kind} '{text}': {error}") from None

    def spell(self, choice: T) -> str:
        """Return the text that describes ``choice`` to :meth:`parse`, with all options."""
        known = self._built_in if type(choice) in self._built_in.values() else self.choices
        name = next(key for key, cls in known.items() if cls is type(choice))
        options = ",".join(f"{o.name}={getattr(choice, o.name)}" for o in self.options(name))
        return f"{name}:{options}" if options else name

    def _meant(self, text: str) -> str:
        """Return what to write in place of a text that names no choice."""
        name, _, value = text.partition("=")
        if value and name in self.choices and self.options(name):
            return f"write {' or '.join(self._spellings(name, value))}"
        one = [name for name in self.choices if len(self.options(name)) == 1]
        forms = [form for name in one for form in self._spellings(name, text) if "…" not in form]
        if forms:
            return f"write {' or '.join(forms)}"
        close = get_close_matches(text.partition(":")[0], self.choices, n=1)
        hint = f"did you mean '{close[0]}'? " if close else ""
        return f"{hint}choose one of {', '.join(self.choices)}"

    def _form(self, name: str, value: str | None = None) -> str:
        """Return how an option of a choice is written, for messages; with its value, if known."""
        if not self.options(name):
            return f"an option of '{name}', which has none"
        return f"an option: write {' or '.join(self._spellings(name, value))}"

    def _spellings(self, name: str, value: str | None) -> list[str]:
        """Return a choice with each of its options that can have this value; all, if none can."""
        options = self.options(name)
        if value is not None:
            taking = tuple(o for o in options if _reads_as(value, o.type))
            options, value = (taking or options), (value if taking else None)
        return [f"{name}:{o.name}={value or '…'}" for o in options]


@cache
def _options(choice: Any) -> tuple[Option, ...]:
    """The options of a choice; kept, because resolving annotations is slow."""
    types = get_type_hints(choice)
    return tuple(
        Option(f.name, types[f.name], None if f.default is MISSING else f.default)
        for f in fields(choice)
    )


def _number(text: str, kind: type[int] | type[float]) -> int | float:
    """Read a number of a type; a share may be written in percent.

    Raises:
        ValueError: it is not a number.
    """
    if kind is float and text.endswith("%"):
        return float(text[:-1]) / 100
    return kind(text)


def _reads_as(text: str, kind: type[int] | type[float]) -> bool:
    """Whether a text can be read as a number of a type."""
    try:
        _number(text, kind)
    except ValueError:
        return False
    return True
