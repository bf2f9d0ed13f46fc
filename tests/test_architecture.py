"""Limits that keep the source readable: sizes, imports, and the words of its prose.

Import-linter (``pyproject.toml``) checks the order of the packages, and ruff (C901) holds every
function to a complexity of 10. The other limits are checked here, on the source's syntax trees.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PACKAGE = ROOT / "rmtcli"

MODULE_LINES = 300
FUNCTION_LINES = 40
PARAMETERS = 8
COMMAND_PARAMETERS = 20
PRUNE_COMMAND_LINES = 100
PACKAGE_DOCSTRING = 120

#: Modules that lie beside the packages, each with the reason why it is in none of them.
TOP_LEVEL = {
    "__init__": "the public names",
    "__main__": "python -m rmtcli",
    "arrays": "the array types that every numerical package annotates with; it imports NumPy alone",
    "diagnostics": "figures of a fit that inform and decide nothing: neither edges/ nor keep/",
    "errors": "the exceptions of every package",
    "noise": "matrices of known truth, for tests, null distributions and `rmtcli simulate`",
    "options": "how the messages of every package name an option",
    "registry": "names and options of what can be chosen, in every package that has a choice",
    "stability": "what confidences say about training, for evaluation/ and training/ alike",
    "version": "read by the build before anything can be imported",
}

#: Words that make a reader stumble, and what to write instead.
WORDS = {
    "anew": "again",
    "dear": "expensive",
    "dearest": "most expensive",
    "for want of": "without, or because there is no",
    "from afar": "remotely",
    "half a character": "a lone surrogate",
    "it is none": "it is not one",
    "likewise": "also, or the full statement",
    "put down": "write, written",
    "putting down": "writing",
    "taken back": "undone",
    "turned": "transposed, rotated, or converted",
    "twin": "duplicate, alias or tied tensor",
    "twins": "duplicates, aliases or tied tensors",
    "what came of": "the result of",
    "wherever": "where, or everywhere that",
    "whither": "where to",
}
#: Ordinary phrases that contain one of these words.
_PLAIN = "turned (?:into|on|off) "
_WORDS = re.compile(
    rf"(?<![a-z])(?!{_PLAIN})({'|'.join(map(re.escape, WORDS))})(?![a-z])", re.IGNORECASE
)
#: A line break in prose, with the sign that begins a line of comment.
_BREAK = re.compile(r"\s*\n[\s#:*>|-]*|\s+")

#: Names that stood for too many things, and what to use instead.
NAMES = {
    "found": "name the thing itself: matches, layers, fit, result",
    "place": "name the thing itself: path, offset, index, position",
    "places": "name the things themselves: paths, offsets, positions",
}

#: What may break a limit, and why: (file, what breaks it) -> reason.
EXCEPTIONS = {
    ("rmtcli/integrations/rmtcli_loading.py", "lines"): "copied as one file into model directories",
    ("rmtcli/training/pruner.py", "RMTPruner.__init__ parameters"): (
        "the options of a public class, keywords as those of the functions of pipeline/"
    ),
}
#: The import that may close a circle, and why.
CLOSES_A_CIRCLE = {
    ("rmtcli.report.base", "rmtcli.report.views"): (
        "Python prints, saves and plots the report itself, and only renderers can answer"
    ),
}


Fault = tuple[str, str, str]


@cache
def _trees() -> dict[str, ast.Module]:
    """Syntax trees of the package's modules by their paths."""
    files = sorted(PACKAGE.rglob("*.py"))
    return {
        file.relative_to(ROOT).as_posix(): ast.parse(file.read_text(encoding="utf-8"))
        for file in files
    }


def _lines(path: str) -> int:
    return len((ROOT / path).read_text(encoding="utf-8").splitlines())


@cache
def _functions() -> list[tuple[str, str, ast.FunctionDef]]:
    """Every function of the package: its module's path, its qualified name, its tree."""

    def visit(node: ast.AST, above: str) -> Iterator[tuple[str, ast.FunctionDef]]:
        for child in ast.iter_child_nodes(node):
            inside = above
            if isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
                inside = f"{above}{child.name}."
                if not isinstance(child, ast.ClassDef):
                    yield f"{above}{child.name}", child
            yield from visit(child, inside)

    return [
        (path, name, function)
        for path, tree in _trees().items()
        for name, function in visit(tree, "")
    ]


def _body_lines(function: ast.FunctionDef) -> int:
    """Lines of a function's body without its docstring."""
    body = function.body[1:] if ast.get_docstring(function) is not None else function.body
    return body[-1].end_lineno - body[0].lineno + 1 if body else 0


def _parameters(function: ast.FunctionDef) -> int:
    """How many parameters a caller may give."""
    arguments = function.args
    names = [a.arg for a in (*arguments.posonlyargs, *arguments.args, *arguments.kwonlyargs)]
    return len([name for name in names if name not in ("self", "cls")])


@cache
def _public() -> frozenset[str]:
    """The names in ``rmtcli.__all__``."""
    for node in _trees()["rmtcli/__init__.py"].body:
        if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == "__all__":
            return frozenset(ast.literal_eval(node.value))
    raise AssertionError("rmtcli/__init__.py has no __all__")


def module_lines() -> Iterator[Fault]:
    """A module beyond 300 lines holds a second idea; the command `prune` has a limit of its own."""
    for path in _trees():
        limit = PRUNE_COMMAND_LINES if path == "rmtcli/cli/prune.py" else MODULE_LINES
        if (lines := _lines(path)) > limit:
            yield path, "lines", f"{lines} lines, at most {limit}"


def function_lines() -> Iterator[Fault]:
    """A function's body has at most 40 lines, its docstring not counted."""
    for path, name, function in _functions():
        if (lines := _body_lines(function)) > FUNCTION_LINES:
            yield path, f"{name} lines", f"{lines} lines of body, at most {FUNCTION_LINES}"


def parameters() -> Iterator[Fault]:
    """At most 8 parameters; a command may have 20, a public function of the pipeline any number."""
    for path, name, function in _functions():
        if path.startswith("rmtcli/pipeline/") and name in _public():
            continue
        command = path.startswith("rmtcli/cli/") and name == "command"
        limit = COMMAND_PARAMETERS if command else PARAMETERS
        if (count := _parameters(function)) > limit:
            yield path, f"{name} parameters", f"{count} parameters, at most {limit}"


def loose_modules() -> Iterator[Fault]:
    """Every module lies in a package, but for those that are argued for in ``TOP_LEVEL``."""
    names = {path.stem for path in PACKAGE.glob("*.py")}
    for name in sorted(names - TOP_LEVEL.keys()):
        yield f"rmtcli/{name}.py", "loose", "belongs into a package"
    for name in sorted(TOP_LEVEL.keys() - names):
        yield f"rmtcli/{name}.py", "loose", "is listed in TOP_LEVEL and does not exist"


def package_docstrings() -> Iterator[Fault]:
    """Every package says in its docstring what it is for, in more than a title."""
    for path, tree in _trees().items():
        if path.endswith("/__init__.py"):
            docstring = ast.get_docstring(tree) or ""
            if len(docstring) < PACKAGE_DOCSTRING:
                yield path, "docstring", f"{len(docstring)} characters, at least 120"


def _imports(path: str, modules: dict[str, str]) -> Iterator[str]:
    """Modules of the package that a module imports, also within functions and for types."""

    def visit(node: ast.AST) -> Iterator[str]:
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            for alias in node.names:
                inner = f"{node.module}.{alias.name}"
                yield inner if inner in modules else node.module
        for child in ast.iter_child_nodes(node):
            yield from visit(child)

    return (name for name in visit(_trees()[path]) if name in modules)


def _circles(arrows: dict[str, set[str]]) -> Iterator[list[str]]:
    """Groups of modules that reach each other (Tarjan's strongly connected components)."""
    index: dict[str, int] = {}
    low: dict[str, int] = {}
    stack: list[str] = []

    def visit(node: str) -> Iterator[list[str]]:
        index[node] = low[node] = len(index)
        stack.append(node)
        for other in arrows[node]:
            if other not in index:
                yield from visit(other)
            if other in stack:
                low[node] = min(low[node], low[other])
        if low[node] == index[node]:
            group = stack[stack.index(node) :]
            del stack[stack.index(node) :]
            if len(group) > 1:
                yield sorted(group)

    for node in arrows:
        if node not in index:
            yield from visit(node)


def import_circles() -> Iterator[Fault]:
    """No module imports itself through others, not even inside a function."""
    modules = {
        path.removesuffix(".py").removesuffix("/__init__").replace("/", "."): path
        for path in _trees()
    }
    arrows = {name: set(_imports(path, modules)) - {name} for name, path in modules.items()}
    for importer, imported in CLOSES_A_CIRCLE:
        if imported in arrows[importer]:
            arrows[importer].remove(imported)
        else:
            yield modules[importer], "circle", f"no longer imports {imported}"
    for circle in _circles(arrows):
        yield modules[circle[0]], "circle", f"{', '.join(circle)} import each other"


def names() -> Iterator[Fault]:
    """Variables, parameters and functions have names that say what they are."""
    for path, tree in _trees().items():
        for node in ast.walk(tree):
            name = ""
            if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
                name = node.id
            elif isinstance(node, ast.arg):
                name = node.arg
            elif isinstance(node, ast.FunctionDef | ast.ClassDef):
                name = node.name
            if name.strip("_").lower() in NAMES:
                yield (
                    path,
                    name,
                    f"is a name on line {node.lineno}: {NAMES[name.strip('_').lower()]}",
                )


def _prose() -> Iterator[Path]:
    """Everything that people read: source, tests, pages."""
    for folder in ("rmtcli", "tests", "docs", "benchmarks", "examples", "sample_models"):
        for file in sorted((ROOT / folder).rglob("*")):
            if file.suffix in (".py", ".md", ".j2", ".js", ".css", ".json", ".yml", ".svg"):
                yield file
    yield from sorted((*ROOT.glob("*.md"), *ROOT.glob("*.toml"), ROOT / "noxfile.py"))


def words() -> Iterator[Fault]:
    """Pages, docstrings, comments and messages do without the words in ``WORDS``."""
    for file in _prose():
        if file == Path(__file__):
            continue
        text = _BREAK.sub(" ", file.read_text(encoding="utf-8"))
        path = file.relative_to(ROOT).as_posix()
        for word in sorted({match.lower() for match in _WORDS.findall(text)}):
            yield path, word, f"says '{word}': write {WORDS[word]}"


CHECKS = [
    module_lines,
    function_lines,
    parameters,
    loose_modules,
    package_docstrings,
    import_circles,
    names,
    words,
]


@cache
def _faults(check: Callable[[], Iterator[Fault]]) -> list[Fault]:
    return list(check())


@pytest.mark.parametrize("check", CHECKS, ids=lambda check: check.__name__)
def test_the_source_keeps_its_limits(check: Callable[[], Iterator[Fault]]) -> None:
    faults = [
        f"{path}: {what}: {message}"
        for path, what, message in _faults(check)
        if (path, what) not in EXCEPTIONS
    ]
    assert not faults, "\n".join(faults)


def test_every_exception_is_needed() -> None:
    faults = {(path, what) for check in CHECKS for path, what, _ in _faults(check)}
    assert EXCEPTIONS.keys() <= faults
