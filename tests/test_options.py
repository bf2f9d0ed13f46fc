"""Options in messages: those of the command line, and what Python calls them."""

from __future__ import annotations

import ast
import inspect
import re
from dataclasses import fields

import pytest
import typer.main

import rmtcli
from rmtcli.cli.main import app
from rmtcli.options import PYTHON, on_command_line, option
from tests.conftest import ROOT

#: Functions whose parameters messages name.
FUNCTIONS = [getattr(rmtcli, name) for name in ("compress", "prune", "curve", "densify")]
FUNCTIONS += [getattr(rmtcli, name) for name in ("evaluate", "finetune", "simulate", "reproduce")]
FUNCTIONS += [rmtcli.extract, rmtcli.repair, rmtcli.resize]
#: Options of which Python has no parameter: there, settings are values of a class.
SETTINGS = {"lr", "distill", "device", "activation"}


def named() -> set[str]:
    """The options that messages of the package name."""
    calls = (
        node
        for path in (ROOT / "rmtcli").rglob("*.py")
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.Call) and getattr(node.func, "id", "") == "option"
    )
    names = {call.args[0].value for call in calls if isinstance(call.args[0], ast.Constant)}
    return {str(name) for name in names}


def test_messages_name_options_of_the_command_line_and_parameters_of_python() -> None:
    commands = typer.main.get_command(app).commands.values()  # type: ignore[attr-defined]
    known = {name for x in commands for p in x.params for name in (*p.opts, *p.secondary_opts)}
    assert {f"--{name}" for name in named()} <= known
    parameters = {name for f in FUNCTIONS for name in inspect.signature(f).parameters}
    for name in named():
        word = option(name)
        part = re.fullmatch(r"(Selection|Calibration|Budget)\((?:(\w+)=)?…?.*\)", word)
        if part is None:
            assert word.removesuffix("=") in parameters | SETTINGS, word
        elif part[2]:
            assert part[2] in {x.name for x in fields(getattr(rmtcli, part[1]))}, word
    assert PYTHON.keys() <= named()


@pytest.mark.parametrize(
    ("name", "value", "typed", "written"),
    [
        ("max-drop", None, "--max-drop", "max_drop="),
        ("max-drop", 0.50, "--max-drop 0.5", "max_drop=0.5"),
        ("budget", "80%", "--budget 80%", 'budget="80%"'),
        ("calib", "none", "--calib none", 'calibration="none"'),
        ("exclude", "a.*", "--exclude 'a.*'", 'Selection(exclude="a.*")'),
        ("budget-macs", None, "--budget-macs", 'Budget(…, "macs")'),
    ],
)
def test_an_option_is_spelled_as_its_reader_writes_it(
    name: str, value: object, typed: str, written: str
) -> None:
    with on_command_line():
        assert option(name, value) == typed
    assert option(name, value) == written
