"""Docs say what the program does. ``python -m tests.test_docs`` writes the printed parts anew."""

from __future__ import annotations

import hashlib
import os
import re
import shlex
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

import rmtcli
from rmtcli.checkpoint import CONTAINERS
from rmtcli.edges import EDGES
from rmtcli.keep import KEEP_RULES
from rmtcli.training import SCHEDULES
from tests.conftest import ROOT, SAMPLES

README = (ROOT / "README.md").read_text()
QUICK_START = re.search(r"^pip install .* && (rmtcli prune .*)$", README, re.M)[1]  # type: ignore[index]
#: Marker in README.md -> the command whose output stands in the block after it.
BLOCKS = {"help": "rmtcli --help", "methods": "rmtcli methods", "quick start": QUICK_START}


def printed(command: str, cwd: Path) -> str:
    environment = os.environ | {"COLUMNS": "80"}
    arguments = [sys.executable, "-m", *shlex.split(command)]
    done = subprocess.run(
        arguments, cwd=cwd, env=environment, capture_output=True, text=True, check=True
    )
    return done.stdout.strip()


def block(marker: str) -> re.Pattern[str]:
    return re.compile(rf"(<!-- {marker} -->\n```\n)(.*?)(```)", re.S)


def reference() -> str:
    arguments = [
        sys.executable,
        "-m",
        "typer",
        "rmtcli.cli.main",
        "utils",
        "docs",
        "--name",
        "rmtcli",
    ]
    done = subprocess.run(arguments, cwd=ROOT, capture_output=True, text=True, check=True)
    return done.stdout.strip() + "\n"


@pytest.mark.parametrize("marker", ["help", "methods"])
def test_readme_shows_what_the_program_prints(marker: str, workdir: Path) -> None:
    assert block(marker).search(README)[2].strip() == printed(BLOCKS[marker], workdir)  # type: ignore[index]


def test_readme_shows_the_real_quick_start(workdir: Path) -> None:
    """Words to the letter; figures but for another processor's rounding."""
    shown = block("quick start").search(README)[2].strip()  # type: ignore[index]
    found = printed(QUICK_START, workdir)
    figure = r"\d[\d,]*\.?\d*"
    assert re.sub(figure, "#", shown) == re.sub(figure, "#", found)
    pairs = zip(re.findall(figure, shown), re.findall(figure, found), strict=True)
    for a, b in ((float(x.replace(",", "")), float(y.replace(",", ""))) for x, y in pairs):
        assert a == pytest.approx(b, rel=1e-3, abs=0.06)


def test_the_command_reference_is_the_programs() -> None:
    assert (ROOT / "docs/cli.md").read_text() == reference()


def test_ci_runs_the_readmes_test_command() -> None:
    commands = re.findall(r"^pip install .*&& pytest$", README, re.M)
    assert len(commands) == 1
    # .ci/run takes the line out of README.md by this very expression, and runs it.
    script = (ROOT / ".ci/run").read_text()
    extract = re.search(r"sed -n '(.*)' README.md", script)[1]  # type: ignore[index]
    found = subprocess.run(
        ["sed", "-n", extract, str(ROOT / "README.md")], capture_output=True, text=True, check=True
    )
    assert found.stdout.strip() == commands[0]
    assert 'eval "$test_command"' in script
    assert "-c constraints.txt" in commands[0]


def test_every_name_is_documented() -> None:
    terms = (ROOT / "docs/checkpoint-format.md").read_text()
    for name in (*EDGES.choices, *KEEP_RULES.choices):
        assert re.search(rf"^  {name}\b", README, re.M), name
    for ending in CONTAINERS:
        assert f"`{ending}`" in terms
    changelog = (ROOT / "CHANGELOG.md").read_text()
    for name in (*EDGES.choices, *KEEP_RULES.choices):
        assert f"`{name}`" in changelog
    docs = README + "".join(page.read_text() for page in (ROOT / "docs").glob("*.md"))
    for name in SCHEDULES.choices:
        assert f"`{name}:" in (ROOT / "docs/training.md").read_text()
    for name in rmtcli.__all__:
        assert name in docs or name == "__version__"


def test_sample_models_are_those_that_their_readme_names() -> None:
    text = (SAMPLES / "README.md").read_text()
    hashes = dict(re.findall(r"^([0-9a-f]{64})  (\S+)$", text, re.M))
    assert len(hashes) == 4
    for digest, name in hashes.items():
        assert hashlib.sha256((SAMPLES / name).read_bytes()).hexdigest() == digest
        assert (SAMPLES / name).stat().st_size < 5_000_000
    assert sum(path.stat().st_size for path in SAMPLES.iterdir()) < 20_000_000


def test_the_training_examples_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A loop, then saved, then taken up again; the trainers' examples have tests of their own."""
    monkeypatch.chdir(tmp_path)
    page = (ROOT / "docs/training.md").read_text()
    loop, save, resume, *_ = re.findall(r"```python\n(.*?)```", page, re.S)
    first: dict[str, Any] = {}
    exec(loop + save, first)
    lines = loop.splitlines()
    start, end = (next(i for i, t in enumerate(lines) if t.startswith(w)) for w in ("model", "for"))
    again: dict[str, Any] = {}
    exec("\n".join([*lines[:start], *lines[start:end]]) + "\n" + resume, again)
    for name, value in first["model"].state_dict().items():
        assert torch.equal(again["model"].state_dict()[name], value)
    assert again["pruner"].time == 10
    assert (tmp_path / "run.csv").exists()


def test_links_lead_somewhere() -> None:
    for page in (ROOT / "README.md", ROOT / "CONTRIBUTING.md", *(ROOT / "docs").glob("*.md")):
        for target in re.findall(r"\]\((?!http)([^)#]+)", page.read_text()):
            assert (page.parent / target).exists(), f"{page.name}: {target}"


def rewrite() -> None:
    """Write the printed parts of the docs anew."""
    import shutil
    import tempfile

    text = README
    with tempfile.TemporaryDirectory() as folder:
        shutil.copytree(SAMPLES, Path(folder) / "sample_models")
        for marker, command in BLOCKS.items():
            output = printed(command, Path(folder))
            text = block(marker).sub(lambda m, o=output: f"{m[1]}{o}\n{m[3]}", text)
    (ROOT / "README.md").write_text(text)
    (ROOT / "docs/cli.md").write_text(reference())


if __name__ == "__main__":
    rewrite()
