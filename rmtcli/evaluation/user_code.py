"""A user's own functions and networks: named as text, imported, called, and blamed by line."""

from __future__ import annotations

import importlib
import logging
import sys
import sysconfig
import traceback
from collections.abc import Callable
from difflib import get_close_matches
from pathlib import Path
from typing import Any

from rmtcli.errors import EvaluationError, RmtcliError, UsageError, first_line

_LOGGER = logging.getLogger(__name__)
#: Folders whose code is not the user's: this package, Python's library and what is installed.
_OTHERS = (Path(__file__).parents[1], Path(sysconfig.get_path("stdlib")))
#: Folders with these names hold what is installed.
_INSTALLED = {"site-packages", "dist-packages"}


def check_spelling(spec: str) -> None:
    """Make sure that a text can name a function, before anything is imported.

    Raises:
        UsageError: it cannot; the message says what to write.
    """
    module, colon, attribute = spec.partition(":")
    if module and colon and attribute:
        return
    hint = ""
    if spec.endswith(".py"):
        hint = f": it is a file: name a function or class in it, as in {_module(spec)}:NAME"
    elif "." in spec and not colon:
        hint = ": did you mean {}:{}?".format(*spec.rsplit(".", 1))
    raise UsageError(f"'{spec}' must be written package.module:function{hint}")


def import_named(spec: str) -> Any:
    """Import what is named ``package.module:function``, first from the working folder.

    A file of the working folder may also be named by its path, ``net.py:Net``. From then on the
    working folder is the last in which modules are looked for: the user's module may import others
    there when it runs, and none there takes the place of an installed one.

    Raises:
        UsageError: there is no such module or function, or the name has another form.
    """
    check_spelling(spec)
    module_name, _, attribute = spec.partition(":")
    folder = str(Path.cwd())
    sys.path.insert(0, folder)
    try:
        module = importlib.import_module(_module(module_name))
    # A user's module may raise anything while it is imported.
    except Exception as error:
        raise UsageError(f"'{spec}' cannot be imported: {blame(error)}") from error
    finally:
        sys.path.remove(folder)
        if folder not in sys.path:
            sys.path.append(folder)
    if not hasattr(module, attribute):
        near = get_close_matches(attribute, [name for name in vars(module) if name[0] != "_"])
        hint = f": did you mean {' or '.join(near)}?" if near else ""
        raise UsageError(f"'{spec}': {module_name} has no '{attribute}'{hint}")
    return getattr(module, attribute)


def call(spec: str | Callable[..., Any], *arguments: object) -> Any:
    """Call a user's function, or the one of this name, and return its result.

    Raises:
        UsageError: the function cannot be imported, or is not a function.
        EvaluationError: the function raised an exception.
    """
    function = import_named(spec) if isinstance(spec, str) else spec
    if not callable(function):
        raise UsageError(f"'{spec}' is not a function or class, but {type(function).__name__}")
    return called(function, words_of(spec), *arguments)


def called(function: Callable[..., Any], words: str, *arguments: object) -> Any:
    """The result of a user's function.

    Args:
        function: the function.
        words: what messages call it.
        arguments: its arguments.

    Raises:
        EvaluationError: it raised an exception.
    """
    try:
        return function(*arguments)
    except RmtcliError:
        raise
    except Exception as error:
        raise EvaluationError(f"{words} failed: {blame(error)}") from error


def words_of(given: object) -> str:
    """What a user's network or function is called in messages."""
    if isinstance(given, str):
        return given
    return str(getattr(given, "__qualname__", type(given).__name__))


def blame(error: Exception) -> str:
    """An error of a user's code in words, with the last line of that code; logs its traceback."""
    _LOGGER.info("the traceback of the next error", exc_info=error)
    line = last_line(error)
    return f"{in_words(error)} ({line})" if line else in_words(error)


def in_words(error: Exception) -> str:
    """The first line of an error's text, after its type unless the text explains itself."""
    kind, text = type(error).__name__, first_line(error)
    plain = isinstance(error, RuntimeError | ImportError) or text == kind
    return text if plain else f"{kind}: {text}"


def last_line(error: Exception) -> str:
    """The last line of a user's own code that led to an error; empty if there is none."""
    for frame in reversed(traceback.extract_tb(error.__traceback__)):
        path = Path(frame.filename)
        installed = any(path.is_relative_to(folder) for folder in _OTHERS)
        if path.is_file() and not installed and _INSTALLED.isdisjoint(path.parts):
            near = path.is_relative_to(Path.cwd())
            shown = path.relative_to(Path.cwd()) if near else path
            return f"{shown}, line {frame.lineno}, in {frame.name}"
    return ""


def _module(name: str) -> str:
    """The name of a module, which may be given as the path of its file."""
    if not name.endswith(".py"):
        return name
    return name.removesuffix(".py").removeprefix("./").replace("/", ".")
