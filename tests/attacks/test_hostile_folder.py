"""No command imports a module that lies in the working folder, or in the directory it opens."""

from __future__ import annotations

import os
import shlex
import subprocess
import sys
from pathlib import Path
from unittest.mock import Mock

import pytest

pytest.importorskip("transformers")

from rmtcli.errors import CheckpointError
from rmtcli.evaluation.user_code import import_named
from rmtcli.verification.parent import OpenStep, open_fresh
from tests.attacks import CANARY
from tests.conftest import Run
from tests.integrations.factored import CASES, tokenizer, write

#: Modules that some command imports, or would if the package were installed.
NAMES = (
    *("json", "tomllib", "numpy", "scipy", "typer", "click", "torch", "safetensors", "tqdm", "PIL"),
    *("transformers", "tokenizers", "peft", "accelerate", "kernels", "timm", "huggingface_hub"),
    *("matplotlib", "jinja2", "distributed", "sitecustomize", "regex", "evil", "inputs"),
)


@pytest.fixture(scope="module")
def hostile(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a factored and a dense directory; hostile modules in all three."""
    made, dense = write(CASES["bert"], tmp_path_factory.mktemp("hostile"))
    for directory in (made, dense):
        tokenizer(40).save_pretrained(directory)
    folder = made.parent
    (folder / "t.txt").write_text("\n".join(["w1 w2 w3"] * 20))
    canary = f"import os\nos.makedirs({str(folder / CANARY)!r}, exist_ok=True)\n1 / 0\n"
    for where in (folder, made, dense):
        for name in NAMES:
            (where / f"{name}.py").write_text(canary)
    return folder


@pytest.mark.parametrize(
    ("where", "command"),
    [
        ("factored", "verify . --against ../product"),
        ("product", "analyze . --report ../r.html"),
        (".", "evaluate factored --task sentence-embedding --data t.txt --against product"),
    ],
)
def test_no_module_of_the_working_folder_is_imported(
    where: str, command: str, hostile: Path, process: Run
) -> None:
    done = process(*shlex.split(command), cwd=hostile / where)
    assert done.returncode == 0, done.stderr
    assert not (hostile / CANARY).exists()


def test_an_empty_entry_of_the_path_is_not_the_working_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """``$PYTHONPATH:/more`` begins with one where the variable is not set."""
    run = Mock(return_value=Mock(returncode=1, stderr="no\n"))
    monkeypatch.setattr(subprocess, "run", run)
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(["", "/more", "src", ""]))
    with pytest.raises(CheckpointError, match="ended with 1: no"):
        open_fresh([OpenStep(tmp_path)], tmp_path / "child")
    assert run.call_args.kwargs["env"]["PYTHONPATH"] == os.pathsep.join(["/more", "src"])
    assert run.call_args.args[0][:2] == [sys.executable, "-P"]


def test_a_named_module_is_found_in_the_working_folder_and_hides_no_other_later(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A function may import more from its folder when it runs; installed modules come first."""
    (tmp_path / "named_by_the_user.py").write_text("def f(): import beside_it; return beside_it.X")
    (tmp_path / "beside_it.py").write_text("X = 3\n")
    monkeypatch.chdir(tmp_path)
    before = list(sys.path)
    monkeypatch.setattr(sys, "path", list(before))
    assert import_named("named_by_the_user:f")() == 3
    assert sys.path == [*before, str(tmp_path)]
