"""Help texts: whole sentences, and the same names as in the library."""

from __future__ import annotations

import shlex
from collections.abc import Iterable
from typing import Any

import pytest
import typer
from typer.testing import CliRunner

from rmtcli.calibration.base import METRICS
from rmtcli.cli.help import TOPICS
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


@pytest.mark.parametrize("name", COMMANDS)
def test_every_option_has_a_topic(name: str) -> None:
    command = COMMANDS[name]
    listed = {option for options in TOPICS.values() for option in options}
    known = {option for p in command.params for option in p.opts if option.startswith("--")}
    if name == "simulate":  # its options are all of one kind
        known &= listed
    assert known - {"--help"} <= listed | {"--record", "--seeds", "--rows"}


@pytest.mark.parametrize("name", COMMANDS)
def test_the_examples_are_command_lines_that_the_program_reads(name: str) -> None:
    for line in COMMANDS[name].epilog.splitlines():
        program, called, *arguments = shlex.split(line.partition(" > ")[0])
        assert (program, called) == ("rmtcli", name)
        context = COMMANDS[name].make_context(name, arguments)
        assert context.args == []


@pytest.mark.parametrize("arguments", [[], ["help"], ["--help"]])
def test_help_lists_the_commands_by_topic(arguments: list[str]) -> None:
    text = CliRunner().invoke(app, arguments).output
    places = [text.index(f"\n{topic}:\n") for topic in ("Look", "Compress", "Research")]
    assert places == sorted(places)
    assert "  densify   Multiply factors back into dense weights.\n" in text


def test_help_of_a_command_has_examples_first_and_options_by_topic() -> None:
    text = CliRunner().invoke(app, ["help", "prune"]).output
    assert text == CliRunner().invoke(app, ["prune", "--help"]).output
    order = ["Examples:", "Arguments:", *(f"{t}:" for t in TOPICS if t != "Training"), "Options:"]
    assert [line for line in text.splitlines() if line in order] == order
