"""The program: all commands, and the message and exit code of one that fails."""

from __future__ import annotations

import io
import signal
import sys
from pathlib import Path
from typing import Annotated, Any

import typer

from rmtcli.cli.commands import Program
from rmtcli.cli.defaults import TAKEN, defaults
from rmtcli.cli.help import WIDTH
from rmtcli.cli.memory import collect_less_often, libraries_fit, return_freed_memory
from rmtcli.cli.progress import finish
from rmtcli.cli.usage import UsageFailure, words_of
from rmtcli.errors import RmtcliError, UsageError, one_line, out_of_memory
from rmtcli.options import on_command_line
from rmtcli.version import __version__

app = typer.Typer(
    name="rmtcli",
    cls=Program,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": WIDTH},
)
_NO_MEMORY = "not enough memory: run on a machine with more; nothing was written"


def _version(wanted: bool) -> None:
    if wanted:
        print(f"rmtcli {__version__}")
        raise typer.Exit


@app.callback()
def root(
    version: Annotated[
        bool,
        typer.Option(
            "--version", "-V", callback=_version, is_eager=True, help="Print the version."
        ),
    ] = False,
) -> None:
    """Compress the fully connected layers of a pretrained network.

    rmtcli fits the Marchenko–Pastur edge that separates noise from signal in each layer's
    singular values, keeps the signal, and writes a smaller checkpoint.

    Exit codes: 0 done, 1 the work failed, 2 wrong usage.
    """


def main() -> None:
    """Run the command line. Expected failures become one line on stderr and an exit code."""
    try:
        _prepare()
        group: Any = typer.main.get_command(app)
        settings, path = defaults(group.commands, Path.cwd())
        options = {"default_map": settings, "obj": path, "standalone_mode": False}
        with on_command_line():
            # Typer returns the code of an exit where it does not exit itself.
            sys.exit(group(prog_name="rmtcli", **options) or 0)
    except UsageFailure as error:
        _fail(words_of(error), 2)
    except UsageError as error:
        taken = f" (with {TAKEN.get()})" if TAKEN.get() else ""
        _fail(f"{error}{taken}", error.exit_code)
    except KeyboardInterrupt:  # where Typer does not catch it
        sys.exit(130)
    except RmtcliError as error:
        _fail(str(error), error.exit_code)
    except OSError as error:
        where = f"{error.filename}: " if error.filename else ""
        _fail(one_line(f"{where}{error.strerror or error}"), 1)
    except (MemoryError, RuntimeError, ImportError, SystemError) as error:
        # An interrupt while a class is being created, as during imports, becomes another error.
        if isinstance(error.__cause__, KeyboardInterrupt | SystemExit):
            sys.exit(130 if isinstance(error.__cause__, KeyboardInterrupt) else 143)
        if not out_of_memory(error):
            raise
        _fail(_NO_MEMORY, 1)


def _prepare() -> None:
    """Set up streams, memory and signals, before any work."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):  # replace characters that a console cannot print
            stream.reconfigure(errors="replace")
    return_freed_memory()
    collect_less_often()
    if "numpy" not in sys.modules and not libraries_fit():
        _fail(_NO_MEMORY, 1)
    # SIGTERM unwinds the stack, so that no half-written file stays behind.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))


def _fail(message: str, code: int) -> None:
    finish()
    print(f"rmtcli: error: {message}", file=sys.stderr)
    sys.exit(code)
