"""The commands by topic. Each is imported and built when it is looked up.

Building the options of all commands takes as long as the analysis of a small network, and a run
needs those of one; all are built for the help of the program and for some error messages.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from functools import cache
from importlib import import_module
from typing import Any

import typer
from typer.core import TyperGroup

from rmtcli.cli.groups import expand_groups
from rmtcli.cli.help import Command

#: Topic -> commands, in the order of the help. ``plot-training`` is in ``cli/plot_training.py``.
COMMANDS = {
    "Look": ("analyze", "info", "evaluate", "diff", "verify"),
    "Compress": ("prune", "curve", "finetune", "densify"),
    "Adapters": ("extract", "repair", "resize", "merge"),
    "Research": ("simulate", "reproduce", "plot-training"),
    "Reference": ("methods", "schema"),
}
_NAMES = [name for names in COMMANDS.values() for name in names]


class _Commands(Mapping[str, Any]):
    """All commands by name."""

    def __getitem__(self, name: str) -> Any:
        if name not in _NAMES:
            raise KeyError(name)
        return _built(name)

    def __iter__(self) -> Iterator[str]:
        return iter(_NAMES)

    def __len__(self) -> int:
        return len(_NAMES)


class Program(TyperGroup):
    """The group of all commands, whose help lists them by topic, with whole sentences.

    ``rmtcli help prune`` is ``rmtcli prune --help``, and ``rmtcli`` alone is ``rmtcli --help``.
    """

    def __init__(self, **settings: Any) -> None:
        super().__init__(**settings | {"commands": _Commands()})

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """Read the arguments of the program."""
        if args[:1] in ([], ["help"]):
            args = [*args[1:2], "--help"]
        return super().parse_args(ctx, args)

    def format_commands(self, ctx: Any, formatter: Any) -> None:
        """Write the commands of each topic."""
        for topic, names in COMMANDS.items():
            helps = ((name, self.commands[name].help or "") for name in names)
            with formatter.section(topic):
                formatter.write_dl([(name, _summary(text)) for name, text in helps])


def _summary(text: str) -> str:
    """The first paragraph of a help text, on one line."""
    return text.partition("\n\n")[0].replace("\n", " ")


@cache
def _built(name: str) -> Any:
    """A command with its options, for Typer to run."""
    module = import_module(f"rmtcli.cli.{name.replace('-', '_')}")
    app = typer.Typer(add_completion=False, rich_markup_mode=None, pretty_exceptions_enable=False)
    settings: Any = {"cls": Command, "epilog": module.EXAMPLES}
    app.command(name, **settings)(expand_groups(module.command))
    return typer.main.get_command(app)
