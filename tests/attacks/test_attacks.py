"""Guarantees for every hostile file.

Nothing in it is run, nothing but the output is written, memory stays under a limit, and a refusal
is one line that names the file, with a documented exit code.
"""

from __future__ import annotations

import shlex
from pathlib import Path

import pytest

from tests.attacks import (
    ATTACKS,
    CANARY,
    MEMORY,
    Attack,
    adapters,
    archives,
    code,
    directories,
    graphs,
    headers,
    others,
    pickles,
)
from tests.conftest import tree
from tests.sandbox import ESCAPED, Outcome, Sandbox

assert all(
    (adapters, archives, code, directories, graphs, headers, others, pickles)
)  # they register attacks
#: Beginnings of the names that a successful command may write.
OUTPUTS = ("a.pruned", "m.pruned", "b.", "out", "r.md", "p.json", "figures", "stranger/a.pruned")


def faults_of(name: str, sandbox: Sandbox, folder: Path) -> list[str]:
    """Run one attack, and describe every guarantee that it breaks."""
    attack = ATTACKS[name]
    arguments = shlex.split(attack.build(folder))
    before = tree(folder)
    done = sandbox.run(*arguments, cwd=folder, watched=True, memory=8 << 30)
    faults = _faults_of_the_run(attack, done, attack.named or arguments[1])
    if any(folder.rglob(CANARY)):
        faults.append(f"escaped: {done.stderr}")
    return faults + _faults_of_the_files(before, tree(folder), failed=bool(done.code))


def _faults_of_the_run(attack: Attack, done: Outcome, named: str) -> list[str]:
    """Faults in the exit code, the message and the memory of a run."""
    faults = []
    if done.code == ESCAPED:
        faults.append(f"escaped: {done.stderr}")
    elif done.code != attack.code:
        faults.append(f"exit code {done.code}, not {attack.code}: {done.stderr[-1500:]}")
    elif done.code and not done.one_line:
        faults.append(f"not one line: {done.stderr!r}")
    elif done.code and named not in done.stderr:
        faults.append(f"does not name the file: {done.stderr}")
    if any(not (c.isprintable() or c == "\n") for c in done.stdout + done.stderr):
        faults.append("control characters in the output")
    if done.peak > MEMORY:
        faults.append(f"took {done.peak} MiB")
    return faults


def _faults_of_the_files(
    before: dict[str, bytes], after: dict[str, bytes], *, failed: bool
) -> list[str]:
    """Faults in what a run wrote: changed inputs, remains of a failed run, copied secrets."""
    faults = []
    changed = [file for file in before if after.get(file) != before[file]]
    written = after.keys() - before.keys()
    if any(Path(file).parts[0] not in ("out.safetensors", "out") for file in changed):
        faults.append(f"changed {changed}")
    if failed and written:
        faults.append(f"left behind {written}")
    if [file for file in written if not file.startswith(OUTPUTS)]:
        faults.append(f"wrote {written}")
    secrets = [file for file in written if after[file].strip() == b"secret"]
    return faults + [f"copied a secret to {file}" for file in secrets]


@pytest.mark.parametrize("name", ATTACKS)
def test_an_attack_has_no_effect(name: str, sandbox: Sandbox, tmp_path: Path) -> None:
    assert faults_of(name, sandbox, tmp_path) == []


def test_the_sandbox_detects_an_escape(sandbox: Sandbox, tmp_path: Path) -> None:
    """A user's own function may run a command, which is an escape for the sandbox."""
    (tmp_path / "a").mkdir()
    others._network(tmp_path / "a")
    (tmp_path / "a/mine.py").write_text("import os\ndef f(model): os.system('true'); return 1.0\n")
    done = sandbox.run(
        "evaluate", "a.safetensors", "--eval", "mine:f", cwd=tmp_path / "a", watched=True
    )
    assert done.code == ESCAPED
