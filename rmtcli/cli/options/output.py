"""Options: how a command shows its results, and which files it writes."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Optional

import typer


@dataclass(frozen=True, slots=True)
class OutputOptions:
    """Options of what a command prints and writes, for :class:`~rmtcli.cli.reporter.Reporter`.

    An option that a command does not offer keeps its default, which asks for nothing.
    """

    json: Annotated[
        bool, typer.Option("--json", help="Print the result as JSON, and nothing else, to stdout.")
    ] = False
    plot: Annotated[
        Optional[Path],
        typer.Option(
            "--plot",
            metavar="DIR",
            help="Plot each layer's spectrum in this directory: .svg, .pdf, .png, and the numbers "
            "as .csv (needs matplotlib).",
            show_default=False,
        ),
    ] = None
    report: Annotated[
        Optional[Path],
        typer.Option(
            "--report",
            metavar="FILE",
            help="Also write the report to a file: .html, .md, .json, or .xml for JUnit (needs "
            "junitparser).",
            show_default=False,
        ),
    ] = None
    fail_if: Annotated[
        Optional[list[str]],
        typer.Option(
            metavar="CONDITION",
            help="Exit with code 1 and write no checkpoint if this condition holds, such as "
            "'accuracy.drop > 0.5' (repeatable); docs/ci.md lists the fields.",
            show_default=False,
        ),
    ] = None
    force: Annotated[
        bool, typer.Option("--force", help="Replace existing files, but never an input.")
    ] = False
    no_verify: Annotated[
        bool,
        typer.Option(
            "--no-verify",
            help="Do not read the written checkpoint back to compare it before it appears under "
            "its name.",
        ),
    ] = False
    quiet: Annotated[
        bool,
        typer.Option("--quiet", "-q", help="Print only errors, and JSON if --json is given."),
    ] = False
    verbose: Annotated[
        bool,
        typer.Option(
            "--verbose", "-v", help="Log each step to stderr, and the tracebacks of your own code."
        ),
    ] = False
