"""What a command imports: start-up is a large part of the time that a small checkpoint takes."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from rmtcli.cli.commands import COMMANDS

NAMES = [name for names in COMMANDS.values() for name in names]
#: Runs a command, and prints the modules that it has imported after its own output.
CODE = """
import sys
from rmtcli.cli.main import main
sys.argv = ["rmtcli", *sys.argv[1:]]
try:
    main()
except SystemExit as done:
    assert not done.code
print("MODULES", *sys.modules)
"""


def imported(*arguments: str) -> set[str]:
    """The modules that Python has imported at the end of a command."""
    command = [sys.executable, "-c", CODE, *arguments]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    output, _, modules = done.stdout.rpartition("MODULES ")
    assert "rmtcli" in output
    return set(modules.split())


def commands(modules: set[str]) -> set[str]:
    """The commands whose modules are among these."""
    return {name for name in NAMES if f"rmtcli.cli.{name.replace('-', '_')}" in modules}


@pytest.mark.parametrize("arguments", [["--help"], ["--version"], ["prune", "--help"]])
def test_help_and_version_import_neither_numpy_nor_torch(arguments: list[str]) -> None:
    assert not imported(*arguments) & {"torch", "scipy", "numpy"}


def test_a_command_imports_no_other_command(workdir: Path) -> None:
    assert commands(imported("analyze", "sample_models/planted.safetensors")) == {"analyze"}
    assert commands(imported("prune", "--help")) == {"prune"}
    assert commands(imported("--help")) == {*NAMES}


def test_an_analysis_imports_only_what_it_uses(workdir: Path) -> None:
    modules = imported("analyze", "sample_models/planted.safetensors")
    unused = {
        "torch",
        "transformers",
        "scipy.linalg",
        "scipy.special",
        "scipy.optimize",
        *(f"rmtcli.{name}" for name in ("adapters", "calibration", "evaluation", "experiments")),
        *(f"rmtcli.{name}" for name in ("integrations", "running", "training", "verification")),
        *(f"rmtcli.report.{name}" for name in ("conditions", "difference", "renderers", "scores")),
        *("rmtcli.computing.device", "rmtcli.edges.screenot", "rmtcli.keep.energy", "tomllib"),
    }
    assert not unused & modules


def test_every_command_is_listed() -> None:
    folder = Path(sys.modules["rmtcli.cli.commands"].__file__ or "").parent
    modules = {file.stem for file in folder.glob("*.py") if "\ndef command(" in file.read_text()}
    assert {name.replace("-", "_") for name in NAMES} == modules


def test_a_short_run_does_not_look_for_cycles_of_objects(workdir: Path) -> None:
    code = """
import atexit, gc, sys
from rmtcli.cli.main import main

def looks():
    return sum(generation["collections"] for generation in gc.get_stats())

before = looks()
# Called last at exit.
atexit.register(lambda: print("LOOKS", looks() - before, gc.get_freeze_count() > 10_000))
sys.argv = ["rmtcli", "analyze", "sample_models/planted.safetensors"]
main()
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.stdout.endswith("\nLOOKS 0 True\n"), done.stdout + done.stderr
