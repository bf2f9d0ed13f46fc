"""Docs agree with the program; ``python -m tests.test_docs`` updates the parts that it prints."""

from __future__ import annotations

import functools
import hashlib
import os
import re
import shlex
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import yaml

import rmtcli as package
from rmtcli import training
from rmtcli.checkpoint import endings
from rmtcli.edges import EDGES
from rmtcli.keep import KEEP_RULES
from rmtcli.training import SCHEDULES
from tests.conftest import ROOT, SAMPLES, Run

README = (ROOT / "README.md").read_text()
DOCS = sorted((ROOT / "docs").glob("*.md"))
METHODS = (ROOT / "docs/methods.md").read_text()
#: A block after this marker shows the output of the last command above it.
OUTPUT = "output"
SHOWING = [page for page in (ROOT / "README.md", *DOCS) if f"<!-- {OUTPUT} -->" in page.read_text()]


def printed(command: str, cwd: Path) -> str:
    environment = os.environ | {"COLUMNS": "80"}
    arguments = [sys.executable, "-m", *shlex.split(command)]
    done = subprocess.run(
        arguments, cwd=cwd, env=environment, capture_output=True, text=True, check=True
    )
    return done.stdout.strip()


def block(marker: str) -> re.Pattern[str]:
    return re.compile(rf"(<!-- {marker} -->\n```\n)(.*?)(```)", re.S)


def command_above(text: str, position: int) -> str:
    """The last command of the last shell block before a position in a page."""
    last = re.findall(r"^```sh\n(.*?)^```", text[:position], re.S | re.M)[-1].strip()
    return str(last.splitlines()[-1].split(" && ")[-1])


def _as_console(examples: re.Match[str]) -> str:
    lines = "\n".join(f"$ {line}" for line in examples[0].splitlines())
    return f"**Examples**:\n\n```console\n{lines}\n```\n"


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
    # Typer writes a command's examples as one paragraph.
    names = "|".join(re.findall(r"^## `rmtcli (\S+)`$", done.stdout, re.M))
    examples = re.compile(rf"^(?:rmtcli (?:{names})\b.*\n?)+", re.M)
    text = examples.sub(_as_console, done.stdout)
    return text.strip() + "\n"


def test_the_page_of_methods_shows_what_the_program_prints(rmtcli: Run) -> None:
    now = rmtcli("methods", env=os.environ | {"COLUMNS": "80"}).stdout.strip()
    assert block("methods").search(METHODS)[2].strip() == now  # type: ignore[index]


def test_every_kind_of_file_has_a_test_that_exists() -> None:
    rows = (ROOT / "docs/files-from-the-field.md").read_text().split("|---|---|---|\n")[1]
    tests = [re.search(r"`(tests/[\w/]+\.py)::(\w+)`[^|]*\|$", row) for row in rows.splitlines()]
    assert len(tests) > 50
    for test, row in zip(tests, rows.splitlines(), strict=True):
        assert test is not None, row
        assert f"def {test[2]}(" in (ROOT / test[1]).read_text(), row


@pytest.fixture(scope="module")
def output(tmp_path_factory: pytest.TempPathFactory, rmtcli: Run) -> Callable[[str], str]:
    """The output of a command on the sample models, which is run once."""

    @functools.cache
    def run(command: str) -> str:
        folder = tmp_path_factory.mktemp("run")
        shutil.copytree(SAMPLES, folder / SAMPLES.name)
        program, *words = shlex.split(command)
        assert program == "rmtcli"
        done = rmtcli(*words, cwd=folder, env=os.environ | {"COLUMNS": "80"})
        assert done.returncode == 0, done.stderr
        return done.stdout.strip()

    return run


@pytest.mark.parametrize("page", SHOWING, ids=lambda page: page.name)
def test_pages_show_real_output(page: Path, output: Callable[[str], str]) -> None:
    """Text has to be equal; figures may differ by another processor's rounding."""
    text = page.read_text()
    for match in block(OUTPUT).finditer(text):
        shown, now = match[2].strip(), output(command_above(text, match.start()))
        figure = r"\d[\d,]*\.?\d*"
        assert re.sub(figure, "#", shown) == re.sub(figure, "#", now)
        pairs = zip(re.findall(figure, shown), re.findall(figure, now), strict=True)
        for a, b in ((float(x.replace(",", "")), float(y.replace(",", ""))) for x, y in pairs):
            assert a == pytest.approx(b, rel=1e-3, abs=0.06)


def test_the_command_reference_is_the_programs() -> None:
    def plain(text: str) -> str:
        """Remove what only newer versions of Typer write: types, and braces around arguments."""
        return re.sub(r" <\w+>|[{}]", "", text)

    assert plain((ROOT / "docs/cli.md").read_text()) == plain(reference())


def test_ci_runs_the_readmes_test_command() -> None:
    commands = re.findall(r"^pip install .*&& pytest$", README, re.M)
    assert len(commands) == 1
    # .ci/run extracts the line from README.md with this expression, and runs it.
    script = (ROOT / ".ci/run").read_text()
    extract = re.search(r"sed -n '(.*)' README.md", script)[1]  # type: ignore[index]
    extracted = subprocess.run(
        ["sed", "-n", extract, str(ROOT / "README.md")], capture_output=True, text=True, check=True
    )
    assert extracted.stdout.strip() == commands[0]
    assert 'eval "$test_command"' in script
    assert "-c constraints.txt" in commands[0]


def test_every_name_is_documented() -> None:
    terms = (ROOT / "docs/checkpoint-format.md").read_text()
    for name in (*EDGES.choices, *KEEP_RULES.choices):
        assert re.search(rf"^  {name}\b", METHODS, re.M), name
    for ending in endings():
        assert f"`{ending}`" in terms
    changelog = (ROOT / "CHANGELOG.md").read_text()
    for name in (*EDGES.choices, *KEEP_RULES.choices):
        assert f"`{name}`" in changelog
    docs = README + "".join(page.read_text() for page in DOCS)
    for name in SCHEDULES.choices:
        assert f"`{name}:" in (ROOT / "docs/training.md").read_text()
    for name in package.__all__:
        assert name in docs or name == "__version__"


def test_the_citation_and_the_changelog_have_the_version() -> None:
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text())
    assert citation["version"] == package.__version__
    assert f"## [{package.__version__}]" in (ROOT / "CHANGELOG.md").read_text()


def test_sample_models_have_the_hashes_in_their_readme() -> None:
    text = (SAMPLES / "README.md").read_text()
    hashes = dict(re.findall(r"^([0-9a-f]{64})  (\S+)$", text, re.M))
    assert len(hashes) == 4
    for digest, name in hashes.items():
        assert hashlib.sha256((SAMPLES / name).read_bytes()).hexdigest() == digest
        assert (SAMPLES / name).stat().st_size < 5_000_000
    assert sum(path.stat().st_size for path in SAMPLES.iterdir()) < 20_000_000


def test_links_lead_somewhere() -> None:
    for page in (*(ROOT / f"{name}.md" for name in ("README", "CONTRIBUTING", "SECURITY")), *DOCS):
        for target in re.findall(r"\]\((?!http)([^)#]+)", page.read_text()):
            assert (page.parent / target).exists(), f"{page.name}: {target}"


def test_every_page_is_in_the_sites_navigation() -> None:
    navigation = (ROOT / "mkdocs.yml").read_text().split("\nnav:\n")[1].split("\n\n")[0]
    listed = re.findall(r": (\S+\.md)", navigation)
    assert sorted(listed) == sorted(
        [*(page.name for page in DOCS), "changelog.md", "contributing.md", "security.md"]
    )


def test_the_site_builds(tmp_path: Path) -> None:
    """Strictly: a broken link or anchor fails. Pages load nothing from other hosts."""
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--quiet", "-d", str(tmp_path)]
    environment = os.environ | {"NO_MKDOCS_2_WARNING": "1"}  # silence an announcement
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    for page in tmp_path.rglob("*.html"):
        text = page.read_text(encoding="utf-8")
        assert not re.search(r"<(link|script|img)[^>]* (href|src)=\"?(https?:)?//", text), page.name
    api = (tmp_path / "api.html").read_text(encoding="utf-8")
    for name in (*package.__all__, *training.__all__):
        assert f'.{name}"' in api or name in ("__version__", "SCHEDULES"), name


def rewrite() -> None:
    """Update the parts of the docs that the program prints."""
    import tempfile

    with tempfile.TemporaryDirectory() as folder:
        shutil.copytree(SAMPLES, Path(folder) / SAMPLES.name)
        run = functools.cache(lambda command: printed(command, Path(folder)))
        text = block("methods").sub(lambda m: f"{m[1]}{run('rmtcli methods')}\n{m[3]}", METHODS)
        (ROOT / "docs/methods.md").write_text(text)
        for page in SHOWING:
            text = page.read_text()
            text = block(OUTPUT).sub(
                lambda m: f"{m[1]}{run(command_above(m.string, m.start()))}\n{m[3]}", text
            )
            page.write_text(text)
    (ROOT / "docs/cli.md").write_text(reference())


if __name__ == "__main__":
    rewrite()
