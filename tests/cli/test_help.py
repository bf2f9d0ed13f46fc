"""Help texts: whole sentences, and the same names as in the library."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import pytest
import typer

from rmtcli.calibration.base import METRICS
from rmtcli.cli.main import app
from rmtcli.evaluation.harness import ACTIVATIONS
from rmtcli.experiments.catalogue import EXPERIMENTS

COMMANDS: Any = typer.main.get_command(app).commands  # type: ignore[attr-defined]


@pytest.mark.parametrize("name", COMMANDS)
def test_every_help_text_is_a_sentence(name: str) -> None:
    command = COMMANDS[name]
    texts = [command.help, *(parameter.help for parameter in command.params)]
    for text in texts:
        assert text[0].isupper() or text[0] == ".", text
        assert text.endswith((".", "]")), text


@pytest.mark.parametrize(
    ("command", "option", "names"),
    [
        ("prune", "activation", ACTIVATIONS),
        ("prune", "metric", METRICS),
        ("reproduce", "name", EXPERIMENTS),
    ],
)
def test_help_names_every_choice(command: str, option: str, names: Iterable[str]) -> None:
    (parameter,) = (p for p in COMMANDS[command].params if p.name == option)
    for name in names:
        assert name in f"{parameter.metavar} {parameter.help}"
