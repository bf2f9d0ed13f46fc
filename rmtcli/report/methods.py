"""The registered methods and their options, for ``rmtcli methods``."""

from __future__ import annotations

from typing import Any

from rich.console import Console
from rich.markup import escape

from rmtcli.calibration import CLEANERS, SOURCES
from rmtcli.edges import EDGES
from rmtcli.evaluation import TASKS
from rmtcli.keep import KEEP_RULES
from rmtcli.noise import NOISES
from rmtcli.registry import Option, Registry

#: Command-line option -> its registry.
REGISTRIES: dict[str, Registry[Any]] = {
    "--calib": SOURCES,
    "--clean": CLEANERS,
    "--edge": EDGES,
    "--keep": KEEP_RULES,
    "--noise": NOISES,
    "--task": TASKS,
}


def describe_methods() -> dict[str, Any]:
    """Every choice: name, first line of the docstring, publication, and options.

    ``reference`` is None where a choice does not come from a publication, or cites none.
    """
    return {
        flag: [
            {
                "name": name,
                "summary": (choice.__doc__ or "").strip().splitlines()[0],
                "reference": registry.reference(name),
                "options": [
                    {"name": o.name, "type": o.type.__name__, "default": o.default}
                    for o in registry.options(name)
                ],
            }
            for name, choice in registry.choices.items()
        ]
        for flag, registry in REGISTRIES.items()
    }


def show_methods(console: Console) -> None:
    """Print every choice as it is typed, with its summary and the publication it comes from."""
    for flag, registry in REGISTRIES.items():
        console.print(f"[bold]{flag}[/bold]  ({escape(registry.kind)})")
        for name, choice in registry.choices.items():
            console.print(f"  {_spelling(name, registry.options(name))}", markup=False)
            console.print(f"      {(choice.__doc__ or '').strip().splitlines()[0]}", markup=False)
            if (reference := registry.reference(name)) is not None:
                console.print(f"      Source: {reference}", markup=False)
        console.print()


def _spelling(name: str, options: tuple[Option, ...]) -> str:
    """The choice as it is typed, ``bema:alpha=0.2``; an option without a default shows its type."""
    shown = ",".join(
        f"{o.name}={o.type.__name__.upper() if o.default is None else o.default}" for o in options
    )
    return f"{name}:{shown}" if shown else name
