"""A project's own defaults, completion, and the sample workflow."""

from __future__ import annotations

import json
import os
import re
import shlex
from pathlib import Path
from typing import Any

import pytest
import typer
import yaml

from rmtcli.cli.defaults import defaults
from rmtcli.cli.main import app
from rmtcli.errors import UsageError
from tests.conftest import DIGITS, ROOT, Run
from tests.sandbox import Sandbox

DEEP = "sample_models/mnist_deep.pt"


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("rmtcli.toml", '[prune]\nkeep = "edge"\ndry-run = true\nexclude = ["fc3*"]\n'),
        ("pyproject.toml", '[tool.rmtcli.prune]\nkeep="edge"\ndry-run=true\nexclude=["fc3*"]\n'),
    ],
)
def test_a_file_in_a_parent_directory_sets_defaults(
    workdir: Path, rmtcli: Run, name: str, text: str
) -> None:
    (workdir / name).write_text(text)
    below = workdir / "sample_models"
    done = rmtcli("prune", "mnist_deep.pt", cwd=below)
    assert done.returncode == 0, done.stderr
    assert "left alone: left out" not in done.stdout
    assert "fc3" not in done.stdout.split("parameters  ")[0]
    assert not (below / "mnist_deep.pruned.pt").exists()
    over = rmtcli("prune", "mnist_deep.pt", "--exclude", "fc1*", cwd=below)
    assert "fc3.weight" in over.stdout


def test_only_the_nearest_file_is_read(workdir: Path, rmtcli: Run) -> None:
    (workdir / "rmtcli.toml").write_text("[prune]\nkep = 1\n")
    (workdir / "pyproject.toml").write_text("[tool.other]\nx = 1\n")
    below = workdir / "sample_models"
    (below / "rmtcli.toml").write_text("")
    assert rmtcli("info", "mnist_deep.pt", cwd=below).returncode == 0
    (below / "rmtcli.toml").unlink()
    (below / "pyproject.toml").write_text("broken [")
    assert rmtcli("info", "mnist_deep.pt", cwd=below).returncode == 2


@pytest.mark.parametrize(
    ("arguments", "taken"),
    [
        ("--keep edge", "defaults: --exclude fc3 of {}"),
        ("--keep edge --exclude fc2", None),
        ("--budget 60%", "defaults: --exclude fc3 of {}"),
        ("", "defaults: --exclude fc3, --budget-macs 50%, --rank-multiple 4 of {}"),
    ],
)
def test_one_option_takes_the_place_of_all_defaults_that_decide_the_same(
    workdir: Path, sandbox: Sandbox, arguments: str, taken: str | None
) -> None:
    path = workdir / "rmtcli.toml"
    path.write_text('[prune]\nexclude = ["fc3"]\nbudget-macs = "50%"\nrank-multiple = 4\n')
    done = sandbox.run("prune", DEEP, "--dry-run", "--json", *arguments.split(), cwd=workdir)
    assert done.code == 0, done.stderr
    result = json.loads(done.stdout)
    notes = [note for note in result["notes"] if note.startswith("defaults: ")]
    assert notes == ([] if taken is None else [taken.format(path)])


def test_an_error_names_the_defaults_that_lead_to_it(workdir: Path, sandbox: Sandbox) -> None:
    (workdir / "rmtcli.toml").write_text('[prune]\nkeep = "edge"\nmax-drop = 1\n')
    done = sandbox.run("prune", DEEP, "--data", "sample_models/mnist.npz", cwd=workdir)
    assert done.code == 2
    assert done.stderr == (
        "rmtcli: error: --keep edge sets ranks itself, so it excludes a budget and --max-drop: "
        f"give only one (with --keep edge, --max-drop 1.0 of {workdir / 'rmtcli.toml'})\n"
    )


@pytest.mark.parametrize(
    ("text", "line"),
    [
        ("[prune]\nkep = 1\n", "[prune] has no option 'kep'"),
        (
            "[prun]\nkeep = 1\n",
            "'prun' is not a command: put options under a command's name, such as [prune]",
        ),
        ("prune = 1\n", "'prune' is not a command"),
        ("[prune\n", "not valid TOML: "),
        (
            '[evaluate]\neval = "mine:f"\n',
            "[evaluate] sets 'eval', which names code to run: remove it there, and give --eval on "
            "the command line\n",
        ),
        ('[prune]\nmodel = "mine:f"\n', "[prune] sets 'model', which names code to run: "),
        ('[analyze]\nexecutor = "dask://a"\n', "[analyze] sets 'executor', which names code"),
    ],
)
def test_an_invalid_file_is_reported_in_one_line(
    workdir: Path, rmtcli: Run, text: str, line: str
) -> None:
    (workdir / "rmtcli.toml").write_text(text)
    done = rmtcli("info", DEEP)
    assert done.returncode == 2
    assert done.stderr.startswith(f"rmtcli: error: {workdir / 'rmtcli.toml'}: {line}")
    assert done.stderr.count("\n") == 1


def test_no_option_that_names_code_can_be_set_in_a_file(tmp_path: Path) -> None:
    """They are found by their help: every option that takes a module's name."""
    commands: dict[str, Any] = typer.main.get_command(app).commands  # type: ignore[attr-defined]
    tried = 0
    for name, command in commands.items():
        for option in command.params:
            if "PACKAGE.MODULE" in str(option.metavar) or option.name == "executor":
                text = f'[{name}]\n{option.opts[0].lstrip("-")} = "a:b"\n'
                (tmp_path / "rmtcli.toml").write_text(text)
                with pytest.raises(UsageError, match="names code to run"):
                    defaults(commands, tmp_path)
                tried += 1
    assert tried > 6


def test_the_shell_completes_commands(rmtcli: Run) -> None:
    words = {"_RMTCLI_COMPLETE": "complete_bash", "COMP_WORDS": "rmtcli pr", "COMP_CWORD": "1"}
    assert rmtcli(env=os.environ | words).stdout.strip() == "prune"


def test_the_sample_workflow(workdir: Path, rmtcli: Run) -> None:
    """Its commands pass as written; where too much is lost, the first fails with one line."""
    workflow = yaml.safe_load((ROOT / "examples/workflow.yml").read_text())
    runs = [step["run"] for step in workflow["jobs"]["compress"]["steps"] if "run" in step]
    commands = [shlex.split(run) for run in runs if run.startswith("rmtcli ")]
    assert len(commands) == 2
    for command in commands:
        done = rmtcli(*command[1:])
        assert done.returncode == 0, done.stderr
    assert (workdir / "report.xml").exists()
    other = {
        "sample_models/mnist_deep.pt": DIGITS / "digits.pt",
        "sample_models/mnist.npz": DIGITS / "digits.npz",
    }
    done = rmtcli(*(other.get(word, word) for word in commands[0][1:]), "--force")
    assert done.returncode == 1
    assert re.fullmatch(
        r"rmtcli: error: \S+: fails: accuracy.drop > 0.5 \(accuracy.drop is [\d.]+\)\n", done.stderr
    )


def test_the_github_action_and_the_hook_match_the_program() -> None:
    action = yaml.safe_load((ROOT / "action.yml").read_text())
    assert action["runs"]["using"] == "composite"
    assert set(action["inputs"]) == {"arguments", "python-version"}
    (hook,) = yaml.safe_load((ROOT / ".pre-commit-hooks.yaml").read_text())
    assert hook["entry"] == "rmtcli info"
    for name in ("model.safetensors", "a/b.pt", "c.ckpt"):
        assert re.search(hook["files"], name)
