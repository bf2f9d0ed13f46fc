"""What must hold for every hostile file.

Nothing in it is run, nothing outside of the output is written, memory stays under a limit, and what
is refused is refused in one line that names the file, with a documented exit code.
"""

from __future__ import annotations

import shlex
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.attacks import ATTACKS, CANARY, MEMORY, archives, directories, headers, others, pickles
from tests.conftest import tree
from tests.sandbox import ESCAPED, Sandbox

assert all((archives, directories, headers, others, pickles))  # they have registered theirs
#: What a command that succeeds may write, by the beginning of its name.
OUTPUTS = ("a.pruned", "m.pruned", "b.", "out", "r.md", "p.json", "figures", "stranger/a.pruned")


@pytest.fixture(scope="module")
def sandbox() -> Iterator[Sandbox]:
    with Sandbox() as found:
        yield found


def attacked(name: str, sandbox: Sandbox, folder: Path) -> list[str]:
    """Meet one attack; what should not have happened."""
    attack = ATTACKS[name]
    arguments = shlex.split(attack.build(folder))
    before = tree(folder)
    done = sandbox.run(*arguments, cwd=folder, watched=True, memory=8 << 30)
    faults = []
    if done.code == ESCAPED or any(folder.rglob(CANARY)):
        faults.append(f"escaped: {done.stderr}")
    elif done.code != attack.code:
        faults.append(f"exit code {done.code}, not {attack.code}: {done.stderr[-1500:]}")
    elif done.code:
        if not done.one_line:
            faults.append(f"not one line: {done.stderr!r}")
        if (attack.named or arguments[1]) not in done.stderr:
            faults.append(f"does not name the file: {done.stderr}")
    if any(not (c.isprintable() or c == "\n") for c in done.stdout + done.stderr):
        faults.append("control characters in the output")
    if done.peak > MEMORY:
        faults.append(f"took {done.peak} MiB")
    after = tree(folder)
    lost = [file for file in before if after.get(file) != before[file]]
    made = after.keys() - before.keys()
    if any(Path(file).parts[0] not in ("out.safetensors", "out") for file in lost):
        faults.append(f"changed {lost}")
    if done.code and made:
        faults.append(f"left behind {made}")
    if [file for file in made if not file.startswith(OUTPUTS)]:
        faults.append(f"wrote {made}")
    secrets = [file for file in made if after[file].strip() == b"secret"]
    return faults + [f"copied a secret to {file}" for file in secrets]


@pytest.mark.parametrize("name", ATTACKS)
def test_nothing_comes_of_an_attack(name: str, sandbox: Sandbox, tmp_path: Path) -> None:
    assert attacked(name, sandbox, tmp_path) == []


def test_the_sandbox_sees_an_escape(sandbox: Sandbox, tmp_path: Path) -> None:
    """What the attacks above try is noticed when it happens: a user's own code may do it."""
    (tmp_path / "a").mkdir()
    others._network(tmp_path / "a")
    (tmp_path / "a/mine.py").write_text("import os\ndef f(model): os.system('true'); return 1.0\n")
    done = sandbox.run(
        "evaluate", "a.safetensors", "--eval", "mine:f", cwd=tmp_path / "a", watched=True
    )
    assert done.code == ESCAPED
