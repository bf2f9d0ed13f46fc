"""Every example in the documentation runs, on small files with the names that it uses."""

from __future__ import annotations

import json
import re
import shlex
import shutil
import signal
import sys
import tomllib
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import torch
import typer
import yaml

from rmtcli import Plan
from rmtcli.checkpoint import Manifest
from rmtcli.cli.main import app, main
from tests import example_files
from tests.conftest import ROOT

PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").glob("*.md"))]
#: Prefixes of commands that are not run, and the reasons. Their options are checked if the project
#: contains the program.
NOT_RUN = {
    "pip install": "needs a package index",
    "pre-commit install": "changes the clone",
    "pytest": "would run itself",
    "nox ": "minutes, and needs a package index",
    "coverage ": "would run itself",
    "mkdocs": "tests/test_docs.py builds the site",
    "python -m tests.test_docs": "writes the documents",
    "python -m benchmarks.": "minutes to hours",
    "dask ": "servers; tests/computing/test_cluster.py starts its own",
    "rmtcli prune s3://": "needs a store and a cluster, as in tests/computing/test_cluster.py",
    "rmtcli prune /shared": "needs a cluster, as in tests/running/test_in_parts.py",
    "python -m tests.faults": "minutes; tests/faults runs a part of it",
    "python -m tests.fuzz": "minutes; tests/fuzz runs a part of it",
    "python -m tests.mutation": "an hour or more: the tests run again for each mutant",
    "python -m tests.reliability": "many minutes: attacks, faults and damaged files",
    "vllm serve": "needs vLLM, as does tests/integrations/test_vllm.py",
    "python llama.cpp/": "needs the converter of llama.cpp",
    "gguf-set-metadata": "needs a file of that converter",
    "rmtcli reproduce": "minutes to days; tests/experiments run it on synthetic images",
}
#: Prefixes of commands that are run only by ``pytest -m slow``.
SLOW = ("rmtcli verify",)
#: Blocks in other languages, by page: test_docs checks that the reference is the program's own.
OTHER = {("docs/cli.md", "console")}
#: Files that a page expects to exist -> the checkpoints that they are pruned from.
PRUNED = {
    ("README.md", "python"): {"all-MiniLM-L6-v2.pruned": "all-MiniLM-L6-v2"},
    ("docs/faq.md", "python"): {"small.pt": "model.pt"},
    ("docs/mlp.md", "python"): {"small.pt": "sample_models/mnist_deep.pt"},
    ("docs/transformers.md", "sh"): {"small": "MODEL_DIR"},
    ("docs/transformers.md", "python"): {"small": "MODEL_DIR"},
}
_COMMANDS: Any = typer.main.get_command(app)


class Block(NamedTuple):
    """A fenced block of a page."""

    page: str
    language: str
    text: str


def blocks() -> Iterator[Block]:
    fence = re.compile(r"^( *)```([^\n`]*)\n(.*?)^\1```$", re.S | re.M)
    for page in PAGES:
        for _, language, text in fence.findall(page.read_text(encoding="utf-8")):
            yield Block(str(page.relative_to(ROOT)), language.strip(), text)


BLOCKS = list(blocks())


def of(language: str) -> list[str]:
    """Pages with blocks in a language."""
    return list(dict.fromkeys(block.page for block in BLOCKS if block.language == language))


def texts(page: str, language: str) -> list[str]:
    return [block.text for block in BLOCKS if (block.page, block.language) == (page, language)]


def commands(shell: str) -> Iterator[list[str]]:
    """The words of each command, without comments."""
    for line in shell.replace("\\\n", " ").splitlines():
        words = shlex.split(line, comments=True)
        while "&&" in words:
            yield words[: words.index("&&")]
            words = words[words.index("&&") + 1 :]
        if words:
            yield words


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("files")
    example_files.write_network(folder)
    example_files.write_samples(folder)
    example_files.write_directories(folder)
    example_files.write_adapters(folder)
    return folder


@pytest.fixture
def prepared(
    files: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    request: pytest.FixtureRequest,
    steady: None,
) -> Path:
    """A working directory with all example files, and those that the page expects."""
    folder = tmp_path / "work"
    shutil.copytree(files, folder, symlinks=True)
    page, language = request.node.callspec.params["page"], request.node.originalname.split("_")[-1]
    for target, source in PRUNED.get((page, language), {}).items():
        example_files.write_small(folder, source, target)
    if language == "sh" and "mnist_mlp" not in str(texts(page, language)):
        example_files.write_digits(folder)
    if "dense" in str(texts(page, language)):
        shutil.copytree(folder / "MODEL_DIR", folder / "dense")
    monkeypatch.chdir(folder)
    return folder


def run(words: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    """Run rmtcli, allowing it to replace the output of an earlier example."""
    known = {name for option in _COMMANDS.commands[words[1]].params for name in option.opts}
    force = ["--force"] if "--force" in known and "--force" not in words else []
    monkeypatch.setattr(sys, "argv", [*words, *force])
    monkeypatch.setattr(signal, "signal", lambda *_: None)  # main's handler would outlive it
    with pytest.raises(SystemExit) as end:
        main()
    assert not end.value.code, shlex.join(words)


def check(words: list[str]) -> None:
    """Check a command's options without running it."""
    if words[0] == "rmtcli":
        command = _COMMANDS.commands[words[1]]
        context = command.context_class(command)
        command.make_parser(context).parse_args(words[2:])
    if words[:2] == ["python", "-m"]:
        spec = find_spec(words[2])
        assert spec is not None, words[2]
        program = Path(str(spec.origin))
        if spec.submodule_search_locations:
            program = program.with_name("__main__.py")
        source = program.read_text(encoding="utf-8")
        for word in words[3:]:
            assert not word.startswith("--") or f'"{word}"' in source, word
    for package in re.findall(r"\[(\w+)\]", shlex.join(words)):
        project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
        assert package in project["optional-dependencies"]


@pytest.mark.parametrize(
    ("page", "slow"),
    [
        pytest.param(page, slow, marks=[pytest.mark.slow] if slow else [])
        for page in of("sh")
        for slow in (False, True)
        if not slow or any(start in text for text in texts(page, "sh") for start in SLOW)
    ],
)
@pytest.mark.filterwarnings("ignore:.*:DeprecationWarning")
def test_sh(page: str, slow: bool, prepared: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for words in commands("".join(texts(page, "sh"))):
        line = " ".join(words)
        if line.startswith(tuple(NOT_RUN)) or (line.startswith(SLOW) and not slow):
            check(words)
        else:
            assert words[0] == "rmtcli", f"neither run nor listed: {line}"
            run(words, monkeypatch)


@pytest.mark.parametrize("page", of("python"))
@pytest.mark.filterwarnings("ignore")  # those of trainers
def test_python(page: str, prepared: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The blocks of a page share their names; ``model`` is a dense network by default."""
    from transformers import dynamic_module_utils

    monkeypatch.setattr(dynamic_module_utils, "HF_MODULES_CACHE", str(prepared / "modules"))
    torch.manual_seed(0)
    names: dict[str, Any] = {**example_files.names(), "__name__": "example"}
    for number, text in enumerate(texts(page, "python")):
        if page == "docs/training.md" and number == 2:  # "in a new process"
            made = texts(page, "python")[0].split("\nfor ")[0]
            exec(made, names)
        exec(compile(text, f"{page}, block {number}", "exec"), names)


@pytest.mark.parametrize("page", of("toml"))
def test_toml(page: str, prepared: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Project defaults: each command in them runs with them."""
    for text in texts(page, "toml"):
        (prepared / "rmtcli.toml").write_text(text)
        for command in tomllib.loads(text):
            run(["rmtcli", command, "model.pt"], monkeypatch)


@pytest.mark.parametrize("page", of("yaml"))
def test_yaml(page: str, prepared: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Steps that use the action have only its inputs, and its command runs."""
    action = yaml.safe_load((ROOT / "action.yml").read_text())
    for text in texts(page, "yaml"):
        for step in yaml.safe_load(text):
            assert re.fullmatch(r"OWNER/rmtcli@\w+", step["uses"])
            assert step["with"].keys() <= action["inputs"].keys()
            run(["rmtcli", *shlex.split(step["with"]["arguments"])], monkeypatch)


@pytest.mark.parametrize("page", of("json"))
def test_json(page: str, tmp_path: Path) -> None:
    """Plans and manifests: the program reads them."""
    for text in texts(page, "json"):
        (tmp_path / "block.json").write_text(text)
        if "rmtcli_plan" in json.loads(text):
            assert Plan.read(tmp_path / "block.json").ranks
        else:
            manifest = Manifest.from_json(text)
            assert manifest is not None
            assert json.loads(manifest.to_json()) == json.loads(text)


def test_every_block_is_one_of_these() -> None:
    """Blocks without a language are output and figures."""
    run_here = {"sh", "python", "toml", "yaml", "json", ""}
    for block in BLOCKS:
        assert block.language in run_here or (block.page, block.language) in OTHER, block
    lines = [" ".join(w) for b in BLOCKS if b.language == "sh" for w in commands(b.text)]
    for start in (*NOT_RUN, *SLOW):
        assert any(line.startswith(start) for line in lines), f"no example any more: {start}"
